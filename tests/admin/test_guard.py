"""Who gets in: the rules, request by request."""

from __future__ import annotations

import pytest

from multiraft.admin.failures import Refused
from multiraft.admin.guard import Guard, is_loopback

TOKEN = "0123456789abcdef"
OPEN = Guard(token=None, certificates=False, loopback=True, name="127.0.0.1")
TOKENS = Guard(token=TOKEN, certificates=False, loopback=False, name="10.0.0.1")
CERTIFICATES = Guard(token=None, certificates=True, loopback=False, name="10.0.0.1")
BOTH = Guard(token=TOKEN, certificates=True, loopback=False, name="10.0.0.1")
NOTHING = Guard(token=None, certificates=False, loopback=False, name="10.0.0.1")
JSON = "application/json"


def ask(guard: Guard, *, changes: bool = False, **headers: str) -> str | int:
    """The status of the refusal, or "in"."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        guard.check(given.get, changes=changes)
    except Refused as refused:
        return refused.failure.status
    return "in"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost", False),  # only addresses: a name may lead anywhere
        ("127.0.0.1.evil.example", False),
    ],
)
def test_loopback_addresses(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8001", "127.0.0.1", "localhost:1", "LocalHost", "a.localhost:80", "[::1]:80"]
)
def test_without_credentials_this_machine_gets_in(host: str) -> None:
    assert ask(OPEN, host=host) == "in"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8001", "localhost.evil.example", "127.0.0.1.evil.example", ""]
)
def test_a_page_whose_name_was_rebound_does_not(host: str) -> None:
    """The browser connects to us, but still says whose page it shows."""
    assert ask(OPEN, host=host) == 403
    assert ask(OPEN) == 403


def test_the_name_in_the_configuration_is_one_of_ours() -> None:
    guard = Guard(token=None, certificates=False, loopback=True, name="host.internal")
    assert ask(guard, host="host.internal:8001") == "in"
    assert ask(guard, host="other.internal:8001") == 403


def test_without_credentials_nobody_else_gets_in() -> None:
    assert NOTHING.closed
    assert ask(NOTHING, host="127.0.0.1:8001", authorization=f"Bearer {TOKEN}") == 403


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xff\udcff",
    ],
)
def test_a_token_is_compared_whole(authorization: str) -> None:
    assert ask(TOKENS, authorization=authorization) == 401


def test_the_token_gets_in_from_anywhere_and_is_asked_for_everywhere() -> None:
    for name in ("10.0.0.1:8001", "evil.example", "127.0.0.1"):
        assert ask(TOKENS, host=name, authorization=f"Bearer {TOKEN}") == "in"
        assert ask(TOKENS, host=name, authorization=f"bearer  {TOKEN} ") == "in"
        assert ask(TOKENS, host=name) == 401


def test_a_certificate_is_enough_unless_there_is_a_token_too() -> None:
    assert ask(CERTIFICATES, host="anything") == "in"
    assert ask(BOTH, host="anything") == 401
    assert ask(BOTH, host="anything", authorization=f"Bearer {TOKEN}") == "in"


@pytest.mark.parametrize("guard", [OPEN, CERTIFICATES])
def test_changes_need_json_and_no_foreign_page(guard: Guard) -> None:
    """What a page can send without being asked (a form, a beacon) is not JSON by its type."""
    host = "127.0.0.1:8001"
    assert ask(guard, changes=True, host=host, content_type=JSON) == "in"
    assert ask(guard, changes=True, host=host, content_type="Application/JSON; charset=utf-8") == "in"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert ask(guard, changes=True, host=host, content_type=kind) == 415
    assert ask(guard, changes=True, host=host) == 415
    assert ask(guard, changes=True, host=host, content_type=JSON, origin=f"http://{host}") == "in"
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999", "http://evil.example:8001"):
        assert ask(guard, changes=True, host=host, content_type=JSON, origin=origin) == 403


def test_a_token_is_never_shown() -> None:
    assert TOKEN not in repr(TOKENS)
