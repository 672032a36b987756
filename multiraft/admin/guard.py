"""Who may use the admin API: token, certificate, or a program on the same machine. Pure: no HTTP here.

Web pages are programs on the same machine, too, in a browser, and a loopback address alone does not
keep them out. So without a token or certificates the `Host` header has to name this machine, which
it does not after DNS rebinding, and changes need a content type that no page can send to another
origin unasked (Fetch standard, "CORS-safelisted request-header").
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from typing import Final

import attrs

from multiraft.admin.failures import Failure, Refused
from multiraft.config import HostConfig

SCHEME: Final = "bearer"

OPEN_ADDRESS: Final = (
    "the admin API needs admin_token, admin_token_file or http_tls where http is not a loopback address"
)

Header = Callable[[str], str | None]
"""A request's header by its name in small letters."""


def is_loopback(host: str) -> bool:
    """Whether `host`, an IP address with or without brackets, is one of this machine alone."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@attrs.frozen
class Guard:
    """Refuses requests.

    Attributes:
        token: What the clients have to send. None: nothing.
        certificates: The connection itself was let in by a certificate.
        loopback: All addresses that are served are of this machine alone.
        name: The host part of `http`, which the `Host` header may have.
    """

    token: str | None = attrs.field(repr=False)
    certificates: bool
    loopback: bool
    name: str

    @classmethod
    def of(cls, config: HostConfig, token: str | None, *, loopback: bool) -> Guard:
        name = _host_of(config.http or "")
        return cls(token, config.http_tls is not None, loopback, name)

    @property
    def closed(self) -> bool:
        """Nobody is let in: there is nothing to know them by."""
        return self.token is None and not self.certificates and not self.loopback

    def check(self, header: Header, *, changes: bool) -> None:
        """Raises: Refused. `changes`: the request is one that changes something."""
        failure = self._refusal(header, changes=changes)
        if failure is not None:
            raise Refused(failure)

    def _refusal(self, header: Header, *, changes: bool) -> Failure | None:
        if self.closed:
            return Failure(403, "Forbidden", OPEN_ADDRESS)
        if self.token is not None:
            refused = _check_token(self.token, header("authorization"))
        elif not self.certificates and not self._is_named(header("host")):
            refused = Failure(
                403,
                "Forbidden",
                f"the Host header is {header('host')!r}, which does not name this machine; "
                "use localhost or its loopback address",
            )
        else:
            refused = None
        if refused is None and changes:
            refused = _check_origin(header("origin"), header("host")) or _check_type(header("content-type"))
        return refused

    def _is_named(self, host: str | None) -> bool:
        name = _host_of(host or "")
        return name == self.name or name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def _check_token(token: str, authorization: str | None) -> Failure | None:
    if authorization is None:
        return Failure(401, "Unauthorized", "this host asks for a token: send Authorization: Bearer <token>")
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != SCHEME:
        return Failure(401, "Unauthorized", "the Authorization header is not of the form: Bearer <token>")
    # How long this takes tells nothing about the token (but its length).
    if not hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode()):
        return Failure(401, "Unauthorized", "the token is not this host's")
    return None


def _check_origin(origin: str | None, host: str | None) -> Failure | None:
    """Browsers say which page a request comes from; other programs have no reason to."""
    if origin is None or origin.partition("://")[2].lower() == (host or "").lower():
        return None
    return Failure(403, "Forbidden", f"a page of another origin, {origin!r}, may not change anything here")


def _check_type(content_type: str | None) -> Failure | None:
    named = (content_type or "").partition(";")[0].strip().lower()
    if named == "application/json":
        return None
    given = f"not {named!r}" if named else "but there is none"
    return Failure(
        415, "UnsupportedMediaType", f"what changes something needs Content-Type: application/json, {given}"
    )


def _host_of(address: str) -> str:
    """Without scheme and port."""
    rest = address.lower().removeprefix("http://").removeprefix("https://").rstrip("/")
    name, separator, port = rest.rpartition(":")
    return name if separator and port.isdecimal() else rest
