"""Authorities and the PEM files of hosts that they trust."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import trustme

from multiraft import TlsConfig

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


def make_files(
    folder: Path,
    issuer: trustme.CA,
    *,
    name: str = "127.0.0.1",
    trusts: tuple[trustme.CA, ...] = (),
    expired: bool = False,
) -> TlsConfig:
    """The files of a host at `name`. It trusts its issuer, unless `trusts` says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    issued = issuer.issue_cert(name, not_after=LONG_AGO if expired else None)
    cert, key, ca = (folder / each for each in ("host.pem", "host.key", "ca.pem"))
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    ca.write_bytes(b"".join(each.cert_pem.bytes() for each in trusts or (issuer,)))
    return TlsConfig(cert=str(cert), key=str(key), ca=str(ca))
