"""A host's configuration from a TOML file; mutual TLS between hosts; the HTTP address for people."""

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio
import trustme

from multiraft import (
    ClusterMismatch,
    ConfigError,
    Entry,
    HostConfig,
    Member,
    ReadMode,
    StateMachine,
    TlsConfig,
    load_config,
    open_host,
)


class Echo(StateMachine):
    def apply(self, entries: Sequence[Entry]) -> list[object]:
        return [bytes(entry.data) for entry in entries]

    def query(self, request: object) -> object:
        return request

    def snapshot(self) -> Iterable[bytes]:
        return []

    def restore(self, chunks: Iterable[bytes]) -> None:
        pass


def echo(group_id: int) -> Echo:
    return Echo()


def toml(folder: Path) -> None:
    """The same fields, read from a file; a wrong one is named."""
    path = folder / "host.toml"
    path.write_text(
        """
        data_dir = "data/a"
        listen = "127.0.0.1:7001"
        advertise = "127.0.0.1:7009"
        http = "127.0.0.1:8001"
        cluster_id = "orders"
        tick_interval_s = 0.05
        election_ticks = 20
        heartbeat_ticks = 2
        pre_vote = false
        check_quorum = true
        read_mode = "lease"
        forward_proposals = false
        leader_wait_s = 3
        max_message_bytes = 65536
        max_inflight_messages = 8
        segment_bytes = 1048576

        [tls]
        cert = "a.pem"
        key = "a.key"
        ca = "ca.pem"
        """
    )
    config = load_config(path)
    assert isinstance(config, HostConfig)
    assert load_config(str(path)) == config
    assert config.advertise == "127.0.0.1:7009"
    assert config.cluster_id == "orders"
    assert config.tick_interval_s == 0.05
    assert config.election_ticks == 20
    assert config.pre_vote is False
    assert config.read_mode is ReadMode.LEASE
    assert config.leader_wait_s == 3
    assert config.max_inflight_messages == 8
    assert config.tls is not None
    assert str(config.tls.cert).endswith("a.pem")
    for text, word in [
        ('data_dir = "d"\nlisten = "127.0.0.1:1"\nelection_tick = 3', "election_tick"),
        ('data_dir = "d"\nlisten = "127.0.0.1:1"\nelection_ticks = "3"', "election_ticks"),
        ('data_dir = "d"\nlisten = "127.0.0.1:1"\nread_mode = "later"', "read_mode"),
        ('data_dir = "d"\nlisten = "127.0.0.1"', "listen"),
        ('listen = "127.0.0.1:1"', "data_dir"),
        ('data_dir = "d"\nlisten = "127.0.0.1:1"\n[tls]\ncert = "x"', "tls"),
        ('data_dir = "d', ""),
    ]:
        path.write_text(text)
        try:
            load_config(path)
        except ConfigError as error:
            assert word in error.field, (text, error)
            assert error.reason
        else:
            raise AssertionError(f"took {text!r}")
    try:
        load_config(folder / "nowhere.toml")
    except (ConfigError, FileNotFoundError) as error:
        assert "nowhere.toml" in str(error)
    else:
        raise AssertionError("read a file that is not there")


def certificates(folder: Path, name: str, authority: trustme.CA) -> TlsConfig:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(folder / f"{name}.key")
    with (folder / f"{name}.pem").open("wb") as file:
        file.writelines(blob.bytes() for blob in issued.cert_chain_pems)
    authority.cert_pem.write_to_path(folder / f"{name}-ca.pem")
    return TlsConfig(
        cert=str(folder / f"{name}.pem"),
        key=folder / f"{name}.key",
        ca=folder / f"{name}-ca.pem",
    )


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def main() -> None:
    with tempfile.TemporaryDirectory() as name, trio.fail_after(60):
        folder = Path(name)
        toml(folder)
        ours, strangers = trustme.CA(), trustme.CA()

        def config(name: str, authority: trustme.CA, http: str | None = None) -> HostConfig:
            return HostConfig(
                data_dir=folder / name,
                listen="https://127.0.0.1:0",
                tick_interval_s=0.02,
                leader_wait_s=1,
                http=http,
                tls=certificates(folder, name, authority),
            )

        try:
            bad = HostConfig(
                data_dir=folder / "x",
                listen="127.0.0.1:0",
                tls=TlsConfig(cert=folder / "no.pem", key=folder / "no.key", ca=folder / "no.ca"),
            )
            async with open_host(bad, machines=echo):
                pass
        except (ConfigError, OSError) as error:
            assert "no." in str(error), str(error)
        else:
            raise AssertionError("TLS without certificates")

        async with (
            open_host(config("a", ours, http="127.0.0.1:0"), machines=echo) as a,
            open_host(config("b", ours), machines=echo) as b,
            open_host(config("m", strangers), machines=echo) as stranger,
            open_host(
                HostConfig(data_dir=folder / "p", listen="127.0.0.1:0", tick_interval_s=0.02),
                machines=echo,
            ) as plain,
        ):
            members = [Member(1, a.address), Member(2, b.address)]
            groups = [await host.create_group(1, members=members) for host in (a, b)]
            for group in groups:
                assert await group.propose(b"secret") == b"secret"
                assert await group.query(5) == 5

            # Neither another authority nor clear text gets in.
            for outsider in (stranger, plain):
                try:
                    with trio.fail_after(20):
                        await outsider.join_group(1, via=a.address)
                except ClusterMismatch as error:
                    assert a.address in str(error)
                else:
                    raise AssertionError("a stranger joined")
                assert 1 not in outsider.groups

            # For people and programs.
            assert a.http_address is not None
            url = "http://" + a.http_address.removeprefix("http://")
            status, text = await trio.to_thread.run_sync(get, url + "/admin/groups/1/members")
            assert status == 200
            assert b.address in text
            status, text = await trio.to_thread.run_sync(get, url + "/admin/nothing")
            assert status == 404
            for command in (["status"], ["groups"], ["group", "1"]):
                done = await trio.run_process(
                    [sys.executable, "-m", "multiraft", *command, "--host", a.http_address, "--json"],
                    capture_stdout=True,
                    check=False,
                    stderr=subprocess.STDOUT,
                )
                assert done.returncode == 0, done.stdout.decode()
                json.loads(done.stdout.decode().splitlines()[-1])
    print("ok")


if __name__ == "__main__":
    trio.run(main)
