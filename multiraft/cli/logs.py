"""Where log lines of commands go: never to standard output, which is for results."""

from __future__ import annotations

import sys

import structlog


def log_to_stderr(level: int) -> None:
    """Log lines of `level` (see `logging`) and above go to standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
