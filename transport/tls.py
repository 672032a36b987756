"""Mutual TLS: contexts from PEM files, and what goes wrong with it in plain words.

Hosts trust whoever holds a certificate of their authority: as a client also only for the name or
address that was dialed. Nobody else gets as far as a hello.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import Final, Never, cast

import attrs

from multiraft.config import TlsConfig
from multiraft.errors import ConfigError


@attrs.frozen
class Tls:
    """Contexts of both directions; mutual TLS is what they are set up for.

    The server's needs ALPN `h2`; the client's is given it by httpx.
    """

    client: ssl.SSLContext
    server: ssl.SSLContext


# --- contexts ----------------------------------------------------------------------------------


class _Handshake(ssl.SSLObject):
    """Says why it fails before it does.

    trio drops what waits to be sent when a handshake fails, and that is the alert, the only word
    the other side would get. Asked for more bytes instead, it sends first and then tries again.
    """

    outgoing: ssl.MemoryBIO
    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as error:
            if not self.outgoing.pending:
                raise
            self._failure = error
            raise ssl.SSLWantReadError from None


class _Context(ssl.SSLContext):
    sslobject_class = _Handshake

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = cast("_Handshake", super().wrap_bio(incoming, outgoing, server_side, server_hostname, session))
        made.outgoing = outgoing
        return made


def load_tls(config: TlsConfig, field: str = "tls", protocols: Sequence[str] = ("h2",)) -> Tls:
    """Read the files and make the contexts. Blocks on the disk.

    Args:
        config: The files.
        field: What the configuration calls them. Default: `tls`.
        protocols: What may be spoken (ALPN), best first. Default: HTTP/2 alone, as between hosts.

    Raises:
        ConfigError: A file cannot be used; names `tls.cert`, `tls.key` or `tls.ca`, and the file.
    """
    _check_certificates(f"{field}.cert", config.cert)
    _check_certificates(f"{field}.ca", config.ca)
    _check_readable(f"{field}.key", config.key)
    client = _make_context(ssl.PROTOCOL_TLS_CLIENT, config, field, protocols)
    client.hostname_checks_common_name = False
    server = _make_context(ssl.PROTOCOL_TLS_SERVER, config, field, protocols)
    server.verify_mode = ssl.CERT_REQUIRED
    # A resumed session would be let in without a second look at its certificate.
    server.num_tickets = 0
    return Tls(client, server)


def _make_context(protocol: int, config: TlsConfig, field: str, protocols: Sequence[str]) -> ssl.SSLContext:
    context = _Context(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(list(protocols))
    context.load_verify_locations(cafile=config.ca)
    try:
        context.load_cert_chain(config.cert, config.key, password=_refuse_passphrase)
    except _Encrypted:
        raise ConfigError(
            f"{field}.key", f"{config.key} is encrypted; a host has no passphrase for it"
        ) from None
    except ssl.SSLError as error:
        raise _chain_error(config, field, error) from None
    return context


def _chain_error(config: TlsConfig, field: str, error: ssl.SSLError) -> ConfigError:
    reason = error.reason or ""
    if reason == "KEY_VALUES_MISMATCH":
        return ConfigError(f"{field}.key", f"{config.key} is not the key of the certificate in {config.cert}")
    if reason.endswith(("KEY_TOO_SMALL", "MD_TOO_WEAK")):
        return ConfigError(f"{field}.cert", f"{config.cert} is too weak: {_detail(error)}")
    return ConfigError(f"{field}.key", f"{config.key} has no private key in PEM form ({_detail(error)})")


class _Encrypted(Exception):
    """A key that asks for a passphrase; OpenSSL itself would ask on the terminal."""


def _refuse_passphrase() -> Never:
    raise _Encrypted


def _check_readable(field: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigError(field, f"cannot read {os.fspath(path)}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path
        raise ConfigError(field, f"cannot read {path!r}: {error}") from None


def _check_certificates(field: str, path: str) -> None:
    """OpenSSL does not tell which of the files it means."""
    _check_readable(field, path)
    scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        scratch.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise ConfigError(field, f"{path} has no certificate in PEM form ({_detail(error)})") from None
    except OSError as error:
        raise ConfigError(field, f"cannot read {path}: {error.strerror}") from None
    if not scratch.cert_store_stats()["x509"]:
        raise ConfigError(field, f"{path} has no certificate in PEM form")


# --- a look in the mirror ------------------------------------------------------------------------


def own_fault(tls: Tls, host: str) -> str | None:
    """Why a host with the same files would refuse this one at `host`, or None.

    Both directions, by a handshake in memory.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client = tls.client.wrap_bio(to_client, to_server, server_hostname=host.strip("[]"))
    except ValueError as error:
        return f"no certificate can be for {host!r}: {error}"
    server = tls.server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(8):  # two round trips do it
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return _verdict(error) if isinstance(error, ssl.SSLCertVerificationError) else str(error)
    return None


# --- in plain words --------------------------------------------------------------------------------

NOT_TLS: Final = "it does not speak TLS, and this host nothing else; set tls on both, or on neither"
ONLY_TLS: Final = "it speaks TLS, and this host does not; set tls on both, or on neither"

_FOREIGN: Final = "no authority in tls.ca has issued it"
_VERDICTS: Final = {
    7: _FOREIGN,  # by one of the same name
    9: "it is not valid yet",
    10: "it has expired, or its authority's has",
    18: _FOREIGN,
    19: _FOREIGN,
    20: _FOREIGN,
    21: _FOREIGN,
    26: "its extended key usage does not allow this",
}
"""By X509_V_ERR_* of OpenSSL (`openssl verify`, section DIAGNOSTICS)."""

_ALERTS: Final = {
    "UNKNOWN_CA": "no authority in its tls.ca has issued it",
    "DECRYPT_ERROR": "no authority in its tls.ca has issued it",
    "CERTIFICATE_EXPIRED": "it has expired, or its authority's has",
    "BAD_CERTIFICATE": "it is not for the name or address that was dialed, or not valid yet",
    "UNSUPPORTED_CERTIFICATE": "its extended key usage does not allow this",
    "CERTIFICATE_REVOKED": "it is revoked",
    "CERTIFICATE_UNKNOWN": "it is not acceptable",
    "CERTIFICATE_REQUIRED": "none was sent",
    "ACCESS_DENIED": "it may not get in",
}
"""RFC 8446 §6.2, by OpenSSL's names; which verdict sends which is OpenSSL's choice."""

_NO_VERSION: Final = "it has no version of TLS in common with this host, which takes 1.2 and later"
_REASONS: Final = {
    "WRONG_VERSION_NUMBER": NOT_TLS,
    "HTTP_REQUEST": NOT_TLS,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it sent no certificate",
    "UNSUPPORTED_PROTOCOL": _NO_VERSION,
    "WRONG_SSL_VERSION": _NO_VERSION,
    "NO_SHARED_CIPHER": "it has no cipher in common with this host",
}


CUT_OFF: Final = "it closed the connection in the middle of the TLS handshake"


def why_refused(error: BaseException) -> str | None:
    """What made a handshake fail that only a person can mend; `it` is the other side.

    None: something else, as a connection that broke.
    """
    found = _ssl_error(error)
    if found is None:
        return None
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"its certificate is refused here: {_verdict(found)}"
    reason = found.reason or ""
    alert = reason.partition("_ALERT_")[2]
    if alert == "PROTOCOL_VERSION":
        return _NO_VERSION
    if alert in _ALERTS:
        return f"it refuses this host's certificate: {_ALERTS[alert]}"
    return _REASONS.get(reason)


def _verdict(error: ssl.SSLCertVerificationError) -> str:
    message: str = error.verify_message
    what, separator, name = message.partition("certificate is not valid for ")
    if separator:
        return f"it is not for {name.rstrip('.')}"
    return _VERDICTS.get(error.verify_code, what)


def _ssl_error(error: BaseException) -> ssl.SSLError | None:
    """The one that libraries have wrapped."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _detail(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
