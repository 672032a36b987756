"""Where log lines go when the program has not said so.

multiraft logs with structlog. Left as it is, structlog prints every line to standard output, which
belongs to the program. A program that configures structlog gets our lines its way; for any other
they go to the standard library's logging, under the names `multiraft.*`, which is silent below
WARNING unless told otherwise.
"""

from __future__ import annotations

import structlog


def default_to_stdlib() -> None:
    """Configure structlog, unless somebody did."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"], drop_missing=True),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
