"""Links with mutual TLS."""

from __future__ import annotations

import ssl

import pytest
import trustme

from multiraft.transport.http import Tls
from tests.transport.helpers import BULK, LIVENESS, Recorder, beat, hello, serve


def contexts(authority: trustme.CA) -> Tls:
    """Both directions of one host; each side demands a certificate of `authority`."""
    certificate = authority.issue_cert("127.0.0.1")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.verify_mode = ssl.CERT_REQUIRED
    server.set_alpn_protocols(["h2"])
    client = ssl.create_default_context()
    for context in (server, client):
        certificate.configure_cert(context)
        authority.configure_trust(context)
    return Tls(client, server)


@pytest.mark.slow
async def test_frames_pass_both_ways_under_mutual_tls() -> None:
    authority = trustme.CA()
    a, b = Recorder(), Recorder()
    async with (
        serve(hello(1), a, tls=contexts(authority)) as one,
        serve(hello(2), b, tls=contexts(authority)) as two,
    ):
        one.connect(two.address)
        two.connect(one.address)
        await a.until(lambda r: len(r.ups) == 2)
        await b.until(lambda r: len(r.ups) == 2)
        assert one.send(two.address, BULK, [beat(1)])
        assert two.send(one.address, LIVENESS, [beat(2)])
        await b.until(lambda r: r.count(BULK) == 1)
        await a.until(lambda r: r.count(LIVENESS) == 1)


async def test_a_certificate_of_another_authority_is_refused() -> None:
    a, b = Recorder(), Recorder()
    async with (
        serve(hello(1), a, tls=contexts(trustme.CA())) as one,
        serve(hello(2), b, tls=contexts(trustme.CA())) as two,
    ):
        one.connect(two.address)
        await a.until(lambda r: len(r.downs) == 2)
        assert "certificate verify failed" in a.downs[0][2]
        assert a.ups == []


async def test_cleartext_to_a_tls_port_is_refused() -> None:
    a, b = Recorder(), Recorder()
    async with serve(hello(1), a) as one, serve(hello(2), b, tls=contexts(trustme.CA())) as two:
        one.connect(two.address)
        await a.until(lambda r: len(r.downs) == 2)
        assert a.ups == []
