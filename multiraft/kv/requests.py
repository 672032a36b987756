"""What a request says, taken apart: its key, its arguments, the format that it asks for.

Everything here works on the raw bytes of the path and the query string. Frameworks decode those
as UTF-8, which keys need not be, and undo percent-encoding before they look for slashes.
"""

from __future__ import annotations

from collections.abc import Mapping

from multiraft.kv.bodies import JSON, BadRequest, Format
from multiraft.kv.commands import check_key
from multiraft.kv.ranges import decode_key


def read_key(raw_path: bytes) -> bytes:
    """The key in `/kv/<key>`. Raises: BadRequest."""
    _, found, encoded = raw_path.partition(b"/kv/")
    try:
        key = decode_key(encoded if found else b"")
        check_key(key)
    except ValueError as error:
        raise BadRequest(f"key: {error}") from None
    return key


def read_arguments(query_string: bytes, *known: str) -> dict[str, bytes]:
    """The arguments, still encoded. Raises: BadRequest for one that is not `known`."""
    arguments: dict[str, bytes] = {}
    for piece in filter(None, query_string.split(b"&")):
        name, _, value = piece.partition(b"=")
        text = name.decode("ascii", "replace")
        if text not in known:
            raise BadRequest(f"{text}: no such argument; there are: {', '.join(known) or 'none'}")
        arguments[text] = value.replace(b"+", b" ")  # as forms encode a space
    return arguments


def read_range_end(arguments: Mapping[str, bytes], name: str) -> bytes | None:
    """An end of a range; an empty one counts as left out. Raises: BadRequest."""
    try:
        return decode_key(arguments.get(name, b"")) or None
    except ValueError as error:
        raise BadRequest(f"{name}: {error}") from None


def read_count(
    arguments: Mapping[str, bytes], name: str, *, default: int, minimum: int = 0, maximum: int
) -> int:
    """Raises: BadRequest."""
    text = arguments.get(name)
    if text is None:
        return default
    if not text.isdigit() or len(text) > 20 or not minimum <= int(text) <= maximum:
        raise BadRequest(f"{name}: must be an integer from {minimum} to {maximum}")
    return int(text)


def wants_stale(arguments: Mapping[str, bytes]) -> bool:
    """Whether a local answer without a barrier will do.

    `lease` and `linearizable` both ask for a linearizable answer. Whether it comes from the
    leader's lease or from a round to a quorum is the host's `read_mode`: where hosts keep no
    leases, a client that would be content with one is served by a quorum.

    Raises:
        BadRequest: It is none of the three.
    """
    wanted = arguments.get("consistency", b"linearizable")
    if wanted not in {b"linearizable", b"lease", b"stale"}:
        raise BadRequest("consistency: must be linearizable, lease or stale")
    return wanted == b"stale"


def accepted_format(accept: str | None) -> Format:
    """CBOR if the client names it first, else JSON."""
    try:
        return Format.named((accept or "").partition(",")[0], field="Accept")
    except BadRequest:
        return Format(JSON)
