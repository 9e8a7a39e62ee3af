"""Requests to the hubs: few redirects, only to safe places; the token to its own host; bounded waiting and retries."""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from autoswift.catalog.availability import huggingface_endpoint, modelscope_endpoint
from autoswift.errors import HubUnreachable, ModelError
from autoswift.tables import explain, told

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 4
"""Tries in a row that bring nothing, waiting 1, 2 and 4 seconds between them: hubs answer 429 and 5xx for moments."""
MOST_ATTEMPTS = 50
"""Tries of one file in all: a line that breaks each time after a megabyte still ends."""
LONGEST_WAIT = 30.0
"""Seconds between tries, also when the hub asks for more (Retry-After)."""
STALL_SECONDS = 30.0
"""Without a byte, after which a request is given up and made anew."""
SLOW_SECONDS, SLOW_BYTES = 60.0, 2**16
"""Fewer bytes than this in that time is a stall too: single bytes, sent to keep the connection open."""
CONNECT_SECONDS = 10.0
REDIRECTS = 5
"""Hubs need one or two: to the file's new name, and to the content network."""
ANSWER_BYTES = 2**26
"""The largest list of files that is read; a model of 3,000 files has 1 MB."""
T = TypeVar("T")


class InterruptionError(Exception):
    """A request broke off, or the hub asks to come again: worth another try."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class AbsentError(Exception):
    """The hub has no such thing."""


class CancelledError(Exception):
    """Another file of the same model failed, or the user interrupts."""


def client(endpoint: str) -> httpx.Client:
    """A client for one hub; follows no redirects by itself.

    A hub on this machine is asked directly: a proxy would look for it on its own.
    """
    import httpx

    timeout = httpx.Timeout(STALL_SECONDS, connect=CONNECT_SECONDS)
    own = is_loopback(host_of(endpoint))
    return httpx.Client(timeout=timeout, follow_redirects=False, trust_env=not own, verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    """Reading the authorities' certificates takes longer than many a request."""
    import httpx

    return httpx.create_ssl_context()


def host_of(url: str) -> str:
    """The host's name, in lower case."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether the name means this machine."""
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


def may_follow(origin: str, target: str) -> bool:
    """Whether a redirect may be followed: by https into the internet, or from this machine to this machine.

    Not from https to http (anyone on the way could answer), and never from outside to an address of this machine or of
    the local network (which the hub cannot reach itself, and would have us ask).
    """
    try:
        scheme, host = urlsplit(target).scheme.lower(), host_of(target)
        _ = urlsplit(target).port
    except ValueError:
        return False
    if not host or "@" in urlsplit(target).netloc:
        return False
    if is_loopback(host_of(origin)):
        return scheme in ("http", "https") and is_loopback(host)
    if _origin(origin) == _origin(target):  # a mirror that the user named, http or not
        return True
    return scheme == "https" and (not _is_private(host) or _is_private(host_of(origin)))


def _is_private(host: str) -> bool:
    address = _address(host)
    return is_loopback(host) or (address is not None and not address.is_global)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme.lower(), host_of(url), parts.port


def headers(url: str) -> dict[str, str]:
    """The user's token goes to the hub that it is for, and nowhere else, nor over a line that others read."""
    agent = {"User-Agent": "autoswift", "Accept-Encoding": "identity"}
    pairs = ((huggingface_endpoint(), "HF_TOKEN"), (modelscope_endpoint(), "MODELSCOPE_API_TOKEN"))
    for endpoint, name in pairs:
        token = os.environ.get(name, "").strip()
        private = url.lower().startswith("https://") or is_loopback(host_of(url))
        if token and token.isascii() and token.isprintable() and private and _origin(url) == _origin(endpoint):
            return agent | {"Authorization": f"Bearer {token}"}
    return agent


@contextmanager
def opened(
    session: httpx.Client, url: str, name: str, extra: dict[str, str] | None = None
) -> Iterator[tuple[httpx.Response, dict[str, str]]]:
    """One GET, redirects followed as far as they may be.

    Args:
        session: from `client`.
        url: where to begin.
        name: of what is asked for, for errors.
        extra: further headers.

    Yields:
        The answer, its body not yet read, and the hub's own words about the file: headers of the first answer, which
        the content network does not repeat.

    Raises:
        ModelError: a redirect that may not be followed, too many, or the hub does not give it to this user.
        AbsentError: not there.
        InterruptionError: worth another try.
    """
    import httpx

    at, first = url, dict[str, str]()
    for _ in range(REDIRECTS + 1):
        try:
            request = session.build_request("GET", at, headers=headers(at) | (extra or {}))
            answer = session.send(request, stream=True)
        except (httpx.TransportError, httpx.StreamError, OSError) as exc:
            raise InterruptionError(str(exc) or type(exc).__name__) from exc
        except (httpx.InvalidURL, httpx.HTTPError, ValueError) as exc:
            raise HubUnreachable(*explain("hub.unreachable", url=url, evidence=exc)) from exc
        try:
            first = first or {key.lower(): value for key, value in answer.headers.items()}
            if answer.status_code not in (301, 302, 303, 307, 308):
                _accepted(answer, url, name)
                yield answer, first
                return
            target = urljoin(at, answer.headers.get("location", ""))
        finally:
            answer.close()
        if not may_follow(at, target) or not may_follow(url, target):
            raise ModelError(*explain("trust.redirect", name=name, host=host_of(url), target=_shown(target)))
        at = target
    raise ModelError(*explain("trust.redirect_loop", name=name, host=host_of(url), count=REDIRECTS))


def _shown(url: str) -> str:
    """An address without its query (which may carry a signature), printable."""
    return ascii(url.partition("?")[0])[1:-1][:200]


def _accepted(answer: httpx.Response, url: str, name: str) -> None:
    """Turns an error status into what it means.

    A 401 or 403 of the content network is a signature that ran out: the next try gets a new one from the hub.
    """
    status, host = answer.status_code, host_of(str(answer.url))
    if status < 400 or status == 416:
        return
    own = _origin(str(answer.url)) == _origin(url)
    if status in (401, 403) and own:
        raise ModelError(*explain("hub.refused", host=host, name=name, status=status))
    if status in (404, 410) and own:
        raise AbsentError(name)
    if own and status < 500 and status not in (408, 425, 429):
        raise HubUnreachable(*explain("hub.unreachable", url=url, evidence=f"status {status}"))
    wait = answer.headers.get("retry-after", "")
    raise InterruptionError(f"status {status}", float(wait) if wait.isdigit() else 0.0)


def persistently(
    act: Callable[[], T], url: str, cancel: threading.Event | None = None, progress: Callable[[], int] | None = None
) -> T:
    """Tries until it works, waiting longer each time.

    Args:
        act: raises InterruptionError when it is worth another try.
        url: for the error.
        cancel: ends the waiting.
        progress: bytes that are here for good; a megabyte more begins the counting anew.

    Raises:
        HubUnreachable: when nothing came of `ATTEMPTS` tries in a row.
        CancelledError: when `cancel` was set.
    """
    failures, before = 0, progress() if progress else 0
    for _ in range(MOST_ATTEMPTS):
        try:
            return act()
        except InterruptionError as exc:
            have = progress() if progress else 0
            failures = 1 if have >= before + 2**20 else failures + 1
            before = max(have, before)
            why = exc
        if failures >= ATTEMPTS:
            break
        pause(min(max(2.0 ** (failures - 1), why.wait), LONGEST_WAIT), cancel)
    raise HubUnreachable(*explain("hub.unreachable", url=url, evidence=why))


def pause(seconds: float, cancel: threading.Event | None) -> None:
    """Waits, or is cancelled.

    Raises:
        CancelledError: when `cancel` is set.
    """
    if cancel is None:
        time.sleep(seconds)
    elif cancel.wait(seconds):
        raise CancelledError


def blocks(answer: httpx.Response, cancel: threading.Event | None = None, *, decoded: bool = False) -> Iterator[bytes]:
    """The body as it comes; what a break leaves behind is given out to the last byte.

    Args:
        answer: not yet read.
        cancel: looked at before each block is given out.
        decoded: without the transport's compression.

    Raises:
        InterruptionError: broken off, or stalled.
        CancelledError: when `cancel` was set.
    """
    import httpx

    since, got = time.monotonic(), 0
    try:
        for block in answer.iter_bytes() if decoded else answer.iter_raw():
            if cancel is not None and cancel.is_set():
                raise CancelledError
            yield block
            got += len(block)
            now = time.monotonic()
            if now - since >= SLOW_SECONDS:
                if got < SLOW_BYTES:
                    raise InterruptionError(told("error.hub.slow"))
                since, got = now, 0
    except (httpx.HTTPError, httpx.StreamError, OSError) as exc:
        raise InterruptionError(str(exc) or type(exc).__name__) from exc


def get_json(session: httpx.Client, url: str, name: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: not given to this user. AbsentError: not there.
        HubUnreachable: no usable answer.
    """

    def ask() -> bytes:
        with opened(session, url, name) as (answer, _):
            body = bytearray()
            for block in blocks(answer, decoded=True):
                body += block
                if len(body) > ANSWER_BYTES:
                    raise HubUnreachable(*explain("hub.unreachable", url=url, evidence=told("error.hub.not_a_model")))
            return bytes(body)

    try:
        value = json.loads(persistently(ask, url))
    except (ValueError, RecursionError) as exc:
        raise HubUnreachable(*explain("hub.unreachable", url=url, evidence=told("error.hub.not_json"))) from exc
    if not isinstance(value, dict):
        raise HubUnreachable(*explain("hub.unreachable", url=url, evidence=told("error.hub.not_a_model")))
    return value
