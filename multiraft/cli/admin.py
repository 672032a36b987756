"""Asking a running host, over the admin API on its `http` address."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Final, TypeVar

import attrs
import click
import httpx

from multiraft.config import TlsConfig, normalize_address, read_token
from multiraft.errors import ConfigError, MultiraftError
from multiraft.transport.tls import load_tls, why_refused

TIMEOUT_S: Final = 10.0
"""For questions."""
OUTCOME_S: Final = 30.0
"""For changes, unless --timeout says otherwise."""
STREAM_TIMEOUT: Final = httpx.Timeout(TIMEOUT_S, read=60.0)
"""Hosts send a line more often than that, whatever happens."""
NDJSON: Final = "application/x-ndjson"
PAGE_GROUPS: Final = 1_000

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
group_argument = click.argument("group_id", metavar="GROUP", type=click.IntRange(1))
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 600, min_open=True),
    default=OUTCOME_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the outcome.",
)


class HostUnreachable(MultiraftError):
    """Nobody answers there, or it is no multiraft host."""


class HostRefused(MultiraftError):
    """The host would not, or could not, do it. Its own words."""


def asks_host(command: F) -> F:
    """Give a command the options that say which host to ask and how, as one parameter `api`."""

    @wraps(command)
    def ask(
        *,
        address: str,
        token_file: str | None,
        cert: str | None,
        key: str | None,
        ca: str | None,
        **others: Any,
    ) -> Any:
        with open_api(address, token_file=token_file, cert=cert, key=key, ca=ca) as api:
            return command(api=api, **others)

    for option in reversed(
        (
            click.option(
                *("--host", "address"), required=True, metavar="HOST:PORT", help="The http address of a host."
            ),
            click.option("--token-file", metavar="FILE", help="A file with the host's admin token."),
            click.option(
                "--cert", metavar="FILE", help="Our certificate, where the host asks for one (PEM)."
            ),
            click.option("--key", metavar="FILE", help="Its private key."),
            click.option("--ca", metavar="FILE", help="The authority of the host's certificate."),
            json_option,
        )
    ):
        ask = option(ask)
    return ask  # type: ignore[return-value]  # what click calls has other parameters


def open_api(
    address: str,
    *,
    token_file: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    ca: str | None = None,
) -> Api:
    """A client of the host at `address`, in a `with` statement.

    Raises:
        ConfigError: The address is none, or a file cannot be used.
    """
    place = normalize_address(address, "host")
    headers = {}
    if token_file is not None:
        headers["Authorization"] = f"Bearer {read_token(token_file, '--token-file')}"
    secure = address.startswith("https://") or any((cert, key, ca))
    client = httpx.Client(
        base_url=f"{'https' if secure else 'http'}://{place}",
        headers=headers,
        verify=_context(cert, key, ca) if secure else False,
        timeout=TIMEOUT_S,
        trust_env=False,
    )
    return Api(place, client)


@attrs.frozen
class Api:
    """The admin API of one host. Raises, wherever it is asked: HostUnreachable, HostRefused, ConfigError."""

    place: str
    """`host:port`."""
    _client: httpx.Client

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, *expected: str, **arguments: int) -> dict[str, Any]:
        """What is at `/admin/<path>`; an object with `expected` fields at least."""
        return self._ask("GET", path, expected, TIMEOUT_S, params=arguments)

    def post(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Have something changed. Fields that are None are left out."""
        given = {name: value for name, value in body.items() if value is not None}
        # The host's answer says more than our own timeout would.
        return self._ask("POST", path, (), timeout_s + TIMEOUT_S, json={**given, "timeout_s": timeout_s})

    def status(self) -> dict[str, Any]:
        """The host and all of its groups."""
        return self._all("status", "address", "statistics", "groups", "next")

    def groups(self) -> list[dict[str, Any]]:
        """A row for each group of the host."""
        return list(self._all("groups", "groups", "next")["groups"])

    def group(self, group_id: int) -> dict[str, Any]:
        """One of them, with its members."""
        return self.get(f"groups/{group_id}", "id", "members", "version")

    def lines(self, path: str) -> Iterator[dict[str, Any]]:
        """The objects of a stream, as they come, until it ends."""
        try:
            with self._client.stream("GET", f"/admin/{path}", timeout=STREAM_TIMEOUT) as answer:
                if answer.status_code != 200 or answer.headers.get("content-type") != NDJSON:
                    answer.read()
                    raise self._not_done(answer)
                for line in answer.iter_lines():
                    yield json.loads(line)
        except httpx.ReadTimeout:
            raise HostUnreachable(f"{self.place} says nothing any more") from None
        except httpx.TimeoutException:
            raise HostUnreachable(f"{self.place} did not answer within {TIMEOUT_S:g} s") from None
        except httpx.HTTPError as error:
            raise self._broken(error) from None

    def _all(self, path: str, *expected: str) -> dict[str, Any]:
        whole = self.get(path, *expected, limit=PAGE_GROUPS)
        following = whole.pop("next")
        while following is not None:
            page = self.get("groups", "groups", "next", after=following, limit=PAGE_GROUPS)
            whole["groups"] += page["groups"]
            following = page["next"]
        return whole

    def _ask(
        self, method: str, path: str, expected: tuple[str, ...], limit_s: float, **request: Any
    ) -> dict[str, Any]:
        try:
            answer = self._client.request(method, f"/admin/{path}", timeout=limit_s, **request)
        except httpx.ConnectTimeout:
            raise HostUnreachable(f"{self.place} did not answer within {limit_s:g} s") from None
        except httpx.TimeoutException:
            raise HostUnreachable(
                f"{self.place} did not answer within {limit_s:g} s"
                + ("; it may have been done all the same" if method == "POST" else "")
            ) from None
        except httpx.HTTPError as error:
            raise self._broken(error) from None
        body = _object(answer)
        if answer.status_code >= 300 or not body.keys() >= set(expected) or not body:
            raise self._not_done(answer)
        return body

    def _not_done(self, answer: httpx.Response) -> MultiraftError:
        body = _object(answer)
        if answer.status_code >= 400 and body.keys() >= {"error", "reason"}:
            return self._refused(body)
        return self._stranger(answer)

    def _broken(self, error: httpx.HTTPError) -> MultiraftError:
        refusal = _tls_refusal(error)
        if refusal is not None:
            return HostUnreachable(f"{self.place}: {refusal}")
        if isinstance(error, httpx.ConnectError):
            return HostUnreachable(f"nobody answers at {self.place}; is this the http address of a host?")
        return HostUnreachable(
            f"what answers at {self.place} is no multiraft host, or it broke off: "
            f"{str(error) or type(error).__name__}; {_WHICH_ADDRESS}"
        )

    def _stranger(self, answer: httpx.Response) -> MultiraftError:
        if answer.status_code == 400 and "HTTPS only" in answer.text:
            return HostUnreachable(f"{self.place} speaks HTTPS only: give --cert, --key and --ca")
        kind = answer.headers.get("content-type", "no content type")
        return HostUnreachable(
            f"what answers at {self.place} is no multiraft host (HTTP {answer.status_code}, {kind}); "
            f"{_WHICH_ADDRESS}"
        )

    def _refused(self, body: dict[str, Any]) -> MultiraftError:
        name, reason = body["error"], str(body["reason"])
        if name == "GroupNotFound":
            return HostRefused(f"group {body.get('group')} is not on the host at {self.place}")
        if name in {"BadRequest", "ConfigError"}:
            field, _, rest = reason.partition(": ")
            return ConfigError(field, rest) if rest else ConfigError("request", reason)
        if name == "Unauthorized":
            reason += " (--token-file)"
        if name == "MemberRemoved":
            reason += "; `multiraft remove` deletes what is left of it on this host"
        if body.get("applied") == "maybe":
            reason += "; it may have been done all the same"
        return HostRefused(f"{self.place}: {reason}")


_WHICH_ADDRESS: Final = "give the host's http address, not the one that it listens on for other hosts"


def _object(answer: httpx.Response) -> dict[str, Any]:
    """The answer's JSON object; empty: it has none."""
    try:
        body = answer.json()
    except ValueError:  # UnicodeDecodeError included
        return {}
    return body if isinstance(body, dict) else {}


def _context(cert: str | None, key: str | None, ca: str | None) -> ssl.SSLContext:
    """Raises: ConfigError, in the words of the command line."""
    for name, value in (("--cert", cert), ("--key", key), ("--ca", ca)):
        if not value:
            raise ConfigError(name, "is required: HTTPS needs --cert, --key and --ca")
    assert cert is not None
    assert key is not None
    assert ca is not None
    try:
        return load_tls(TlsConfig(cert=cert, key=key, ca=ca)).client
    except ConfigError as error:
        raise ConfigError(error.field.replace("tls.", "--"), error.reason) from None


def _tls_refusal(error: BaseException) -> str | None:
    """Why there is no TLS between us, in the words of the command line. None: that is not it."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    if seen is None:
        return None
    if getattr(seen, "reason", None) in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}:
        return "it does not speak TLS: leave away https://, --cert, --key and --ca"
    told = why_refused(seen) or f"TLS failed: {seen}"
    for ours, theirs in (
        ("in its tls.ca", "in its http_tls.ca"),
        ("in tls.ca", "in --ca"),
        ("this host's certificate", "the certificate in --cert"),
    ):
        told = told.replace(ours, theirs)
    return told
