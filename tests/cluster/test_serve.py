"""`multiraft serve`, as a process: started from a file, stopped by a signal, started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import trustme

from multiraft.cli.ports import free_ports
from multiraft.transport.tls import load_tls
from tests.cli.helpers import ROOT, assert_one_clear_line, command_line, multiraft
from tests.transport.certificates import make_files


@pytest.mark.slow
def test_serve_keeps_its_data_over_a_clean_stop(tmp_path: Path) -> None:
    """SIGTERM is status 0, and what was written is there the next time."""
    listen, http = free_ports(2)
    path = tmp_path / "host.toml"
    path.write_text(
        f'listen = "127.0.0.1:{listen}"\nhttp = "127.0.0.1:{http}"\ndata_dir = "{tmp_path / "data"}"\n'
        "tick_interval_s = 0.01\n[kv]\ngroups = 2\n"
    )
    for stored in (None, "first", "second"):
        process = subprocess.Popen(
            command_line("serve", "--config", path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        try:
            url = f"http://127.0.0.1:{http}/kv/key"
            answer = _ask_until_ready(url)
            assert (answer.text if answer.status_code == 200 else None) == stored
            written = {None: "first", "first": "second", "second": "third"}[stored]
            assert httpx.put(url, content=written, trust_env=False).status_code == 204
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 0, error
        assert out == ""
        assert "Traceback" not in error


def _ask_until_ready(url: str) -> httpx.Response:
    end = time.monotonic() + 20
    while True:
        assert time.monotonic() < end, "it never got ready"
        try:
            answer = httpx.get(url, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        if answer.status_code != 503:
            return answer
        time.sleep(0.05)


@pytest.mark.slow
def test_other_division_of_keys_is_refused(tmp_path: Path) -> None:
    """Started again with another number of groups: one clear line, wrong usage."""
    listen, http = free_ports(2)
    path = tmp_path / "host.toml"
    common = f'listen = "127.0.0.1:{listen}"\nhttp = "127.0.0.1:{http}"\ndata_dir = "{tmp_path / "data"}"\n'
    path.write_text(common + "tick_interval_s = 0.01\n[kv]\ngroups = 2\n")
    process = subprocess.Popen(command_line("serve", "--config", path), stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        _ask_until_ready(f"http://127.0.0.1:{http}/kv/key")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    path.write_text(common + "[kv]\ngroups = 3\n")
    assert_one_clear_line(multiraft("serve", "--config", path), "divides its keys", status=2)


@pytest.mark.slow
def test_a_tls_table_is_for_the_port_between_hosts(tmp_path: Path) -> None:
    """The store's own port stays plain HTTP. Files that cannot be used: one clear line, wrong usage."""
    listen, http = free_ports(2)
    files = make_files(tmp_path / "tls", trustme.CA())
    path = tmp_path / "host.toml"
    common = (
        f'listen = "https://127.0.0.1:{listen}"\nhttp = "127.0.0.1:{http}"\n'
        f'data_dir = "{tmp_path / "data"}"\ntick_interval_s = 0.01\n'
    )
    path.write_text(
        f'{common}[kv]\ngroups = 2\n[tls]\ncert = "{files.cert}"\nkey = "{files.key}"\nca = "{files.ca}"\n'
    )
    process = subprocess.Popen(command_line("serve", "--config", path), stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        assert _ask_until_ready(f"http://127.0.0.1:{http}/kv/key").status_code == 404
        plain = socket.create_connection(("127.0.0.1", listen), timeout=10)
        with load_tls(files).client.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            assert secure.selected_alpn_protocol() == "h2"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    path.write_text(f'{common}[tls]\ncert = "{files.cert}"\nkey = "{files.cert}"\nca = "{files.ca}"\n')
    assert_one_clear_line(multiraft("serve", "--config", path), "tls.key", status=2)
