"""Every bound and timeout of the network layer, in one place."""

from __future__ import annotations

import attrs

KIB = 1 << 10
MIB = 1 << 20


@attrs.frozen(kw_only=True)
class Bounds:
    """What links may hold, send at once and wait for. Sizes in bytes, times in seconds.

    Both ends of a link should agree on `max_frame_bytes`; a larger frame ends its stream.
    """

    max_frame_bytes: int = MIB + 64 * KIB
    """One frame, without its length. At least the largest single message: the larger of
    `max_message_bytes` and `max_proposal_bytes`, and some room. Default: 1 MiB + 64 KiB."""
    bulk_outbox_bytes: int = 16 * MIB
    """Frames that wait for a bulk lane; beyond it `send` refuses. Default: 16 MiB."""
    liveness_outbox_bytes: int = 4 * MIB
    """Frames that wait for a liveness lane; beyond it the session ends. Default: 4 MiB."""
    outbox_frames: int = 4096
    """Frames that wait for any lane. Default: 4096."""
    chunk_bytes: int = 256 * KIB
    """Frames are joined up to this size for one write. Default: 256 KiB."""

    handshake_timeout_s: float = 5.0
    """From dialing until the stream is open. Default: 5 s."""
    stall_timeout_s: float = 10.0
    """A stream that takes no byte for this long is broken. Default: 10 s."""
    retry_min_s: float = 0.05
    """First wait before a link dials again; doubles up to `retry_max_s`. Default: 50 ms."""
    retry_max_s: float = 2.0
    """Default: 2 s."""
    retry_refused_s: float = 5.0
    """Wait after a refusal that time does not heal, as by another cluster. Default: 5 s."""
    close_timeout_s: float = 1.0
    """How long open streams may take to end when the transport closes. Default: 1 s."""

    max_snapshots_out: int = 2
    """Snapshot transfers that run at once; others wait their turn. Default: 2."""
    max_snapshots_in: int = 4
    """Snapshot transfers accepted at once; others are told to come later. Default: 4."""
    max_connections: int = 4096
    """Connections the server holds; further ones are closed at once. Default: 4096."""
