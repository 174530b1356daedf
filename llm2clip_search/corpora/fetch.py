"""Fetching by HTTP from servers of strangers: politely, within limits, and from nowhere private."""

import random
import ssl
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from threading import BoundedSemaphore, Lock
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote, urljoin

from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError, IncompleteRead, LocationParseError, ProtocolError, ReadTimeoutError, SSLError
from urllib3.util import Url, make_headers, parse_url

from llm2clip_search.corpora.addresses import whole_uri
from llm2clip_search.corpora.connections import (
    HttpPool,
    HttpsPool,
    LateError,
    RefusedError,
    Transfer,
    UnreachableError,
    Watch,
)
from llm2clip_search.errors import ImageError

OPT_OUT = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
"""Directives of ``X-Robots-Tag`` by which a server forbids what is done here: those that img2dataset honours."""
AGENT = "llm2clip-search"
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})
_STATUS = {401: "asks for a password", 403: "denies access", 404: "has no such page", 410: "has it no more"}
_NO_IMAGES = (
    "text/html",
    "application/xhtml+xml",
    "application/json",
    "text/css",
    "text/javascript",
    "video/",
    "audio/",
)
_BLOCK = 1 << 16
_DAY = 86400.0
_HOSTS = 4096
"""Hosts whose state is remembered."""


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Limits of fetching."""

    allow_private: bool = False
    """Reach addresses of this machine and of private networks too."""
    per_host: int = 8
    """Requests to one host at once."""
    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    """Without a byte."""
    seconds: float = 120.0
    """For one request, from connecting to the last byte."""
    max_bytes: int = 256 << 20
    """Of one body that is held in memory, unpacked."""
    tries: int = 3
    back_off_seconds: float = 0.5
    """Before the second try; doubled each time."""
    longest_wait_seconds: float = 30.0
    """What a server may ask for by ``Retry-After``."""
    down_seconds: float = 30.0
    """A host that could not be reached is not asked again for this long."""
    redirects: int = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    """What is asked for; see `Fetcher.request`."""

    method: Literal["GET", "HEAD"]
    part: tuple[int, int] | None
    into: BinaryIO | None
    is_image: bool


class _RetryError(Exception):
    """It may succeed later."""

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Host:
    """A host, with the manners that it is treated with."""

    def __init__(self, requests: int) -> None:
        self.places = BoundedSemaphore(requests)
        self._not_before = self._down_until = 0.0
        self._why_down = ""

    def wait(self) -> None:
        """Until the host may be asked again.

        Raises:
            OSError: it was down a moment ago.
        """
        if time.monotonic() < self._down_until:
            raise OSError(self._why_down)
        time.sleep(max(0.0, self._not_before - time.monotonic()))

    def pause(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def is_down(self, why: str, seconds: float) -> None:
        self._down_until, self._why_down = time.monotonic() + seconds, why


class Fetcher:
    """Fetches URLs for many threads, over connections that are kept."""

    def __init__(self, config: FetchConfig = FetchConfig()) -> None:
        self._config = config
        self._pools = PoolManager(
            num_pools=64,
            maxsize=config.per_host,
            timeout=Timeout(connect=config.connect_seconds, read=config.read_seconds),
            retries=False,
            ssl_context=_tls(),
        )
        self._pools.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}
        self._watch = Watch()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._lock = Lock()
        self._agent = f"{AGENT}/{version('llm2clip-search')} (image indexer)"

    def image(self, url: str) -> bytes:
        """The bytes of an image.

        Raises:
            OSError: it cannot be fetched, in time and within the limits.
            ImageError: what comes is no image, or its server forbids that it be indexed.
        """
        return self.request(url, is_image=True).body

    def request(
        self,
        url: str,
        *,
        method: Literal["GET", "HEAD"] = "GET",
        part: tuple[int, int] | None = None,
        into: BinaryIO | None = None,
        is_image: bool = False,
    ) -> Fetched:
        """The answer to a request, after redirects.

        Args:
            part: offset and number of bytes that are wanted of it. The status is 206 if the server gives them.
            into: where the body goes instead of into memory; it may then have any size, and take any time.
            is_image: refuse what is none, and what may not be indexed.

        Raises:
            OSError: as of `image`; FileNotFoundError if it is not there.
            ImageError: as of `image`.
        """
        address, wanted = _parsed(whole_uri(url)), _Wanted(method=method, part=part, into=into, is_image=is_image)
        for _ in range(self._config.redirects + 1):
            answer = self._tried(address, wanted)
            if answer.status not in _MOVED:
                return answer
            target = _parsed(urljoin(address.url, answer.headers["location"].strip()))
            auth = address.auth if (target.host, target.port) == (address.host, address.port) else None
            address = target._replace(auth=auth)
        raise OSError(f"it is redirected more than {self._config.redirects} times")

    def _tried(self, address: Url, wanted: "_Wanted") -> Fetched:
        """An answer, or a redirect, after as many tries as it takes."""
        config, host = self._config, self._host(f"{address.host}:{address.port}")
        seconds = config.seconds if wanted.into is None else _DAY
        transfer = None
        for number in range(1, config.tries + 1):
            try:
                with host.places:
                    host.wait()
                    deadline = transfer.deadline if transfer is not None else time.monotonic() + seconds
                    transfer = Transfer(deadline=deadline, allow_private=config.allow_private)
                    with self._watch.over(transfer), _as_sentences(transfer):
                        return self._once(address, wanted, transfer)
            except LateError as error:
                raise OSError(f"it takes more than {seconds:,.0f} s") from error
            except (_RetryError, UnreachableError) as error:
                wait = error.wait if isinstance(error, _RetryError) else 0.0
                if wait > config.longest_wait_seconds:
                    raise OSError(f"{error} and asks to come back in {wait:,.0f} s") from error
                if number == config.tries:
                    if isinstance(error, UnreachableError):
                        host.is_down(str(error), config.down_seconds)
                    raise OSError(f"{error}{f', {number} times' if number > 1 else ''}") from error
                host.pause(wait)
                pause = config.back_off_seconds * 2 ** (number - 1) * random.uniform(0.75, 1.25)
                time.sleep(max(pause, wait))
        raise AssertionError("the last try returns or raises")

    def _once(self, address: Url, wanted: "_Wanted", transfer: Transfer) -> Fetched:
        headers = {"User-Agent": self._agent, "Accept-Encoding": "identity"}
        if address.auth:
            headers |= make_headers(basic_auth=unquote(address.auth))
        if wanted.part is not None:
            headers["Range"] = f"bytes={wanted.part[0]}-{wanted.part[0] + wanted.part[1] - 1}"
        plain = address._replace(auth=None, fragment=None).url
        response = self._pools.urlopen(
            wanted.method, plain, headers=headers, redirect=False, preload_content=False, assert_same_host=False
        )
        try:
            found = Fetched(status=response.status, headers=_lower(response))
            if found.status in _MOVED and found.headers.get("location"):
                return found
            if not _is_answer(found, wanted.method):
                raise _fault(found)
            if wanted.is_image:
                _check_image(found)
            body = self._body(response, wanted) if found.status in (200, 206) else b""
            transfer.check()  # a body without a length ends where its connection does
            return replace(found, body=body)
        finally:
            _leave(response)

    def _body(self, response: BaseHTTPResponse, wanted: "_Wanted") -> bytes:
        limit, left = self._config.max_bytes, response.length_remaining
        if left is not None and left > limit and wanted.into is None:
            raise OSError(f"it has {left:,} bytes, more than {limit:,}")
        blocks, size = [], 0
        while block := response.read1(_BLOCK, decode_content=True):
            if wanted.into is not None:
                wanted.into.write(block)
                continue
            size += len(block)
            if size > limit:
                raise OSError(f"it has more than {limit:,} bytes")
            blocks.append(block)
        return b"".join(blocks)

    def _host(self, name: str) -> _Host:
        with self._lock:
            host = self._hosts.setdefault(name, _Host(self._config.per_host))
            self._hosts.move_to_end(name)
            if len(self._hosts) > _HOSTS:
                self._hosts.popitem(last=False)
            return host


def _leave(response: BaseHTTPResponse) -> None:
    """Keep the connection, if no more than a little is left to read; otherwise close it."""
    if (response.length_remaining or _BLOCK + 1) <= _BLOCK:
        response.drain_conn()
    response.close()
    response.release_conn()


def _tls() -> ssl.SSLContext:
    """The system's certificates, and those of certifi, because some systems have none."""
    context = ssl.create_default_context()
    try:
        import certifi
    except ImportError:
        return context
    context.load_verify_locations(certifi.where())
    return context


def _parsed(url: str) -> Url:
    """An address that may have spaces, letters of any script and a password in it.

    Raises:
        OSError: it is none, or not of the web.
    """
    scheme, separator, _ = url.strip().partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise OSError(f"{scheme[:20]}:// is not http:// or https://" if separator else "it is not a URL")
    try:
        parsed = parse_url(url.strip())
    except LocationParseError as error:
        raise OSError("it is not a valid URL") from error
    if not parsed.host:
        raise OSError("it is a URL without a host")
    return parsed


def _lower(response: BaseHTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


def _is_answer(found: Fetched, method: str) -> bool:
    return found.status in (200, 206, 416) or (method == "HEAD" and found.status in (405, 501))


def _check_image(found: Fetched) -> None:
    if forbidden := _forbidden(found.headers.get("x-robots-tag", "")):
        raise ImageError(f"its server forbids it to be indexed: X-Robots-Tag {forbidden}", stage="read")
    kind = found.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith(_NO_IMAGES):
        raise ImageError(f"the server sends {kind}, not an image", stage="read")


def _forbidden(tag: str) -> str:
    """The first directive of ``X-Robots-Tag`` that forbids to index an image; those for other agents do not count.

    >>> _forbidden("otherbot: noindex, noai, llm2clip-search: noimageai")
    'noimageai'
    """
    agent = ""
    for part in tag.split(","):
        name, colon, rest = part.partition(":")
        if colon and name.strip().lower() not in ("unavailable_after", "max-snippet", "max-image-preview"):
            agent, directive = name.strip().lower(), rest.strip().lower()
        else:
            directive = part.strip().lower()
        if agent in ("", "*", AGENT) and directive in OPT_OUT:
            return directive
    return ""


def _fault(found: Fetched) -> Exception:
    """What an answer means that is neither content nor a redirect."""
    what = _STATUS.get(found.status, "answers")
    reason = f"the server {what} (status {found.status})"
    if found.status in _BUSY:
        return _RetryError(reason, wait=_retry_after(found.headers.get("retry-after", "")))
    return FileNotFoundError(reason) if found.status in (404, 410) else OSError(reason)


def _retry_after(value: str) -> float:
    """Seconds to wait, from a number of them or a date; 0 if a server says nothing that can be read."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


@contextmanager
def _as_sentences(transfer: Transfer) -> Iterator[None]:
    """Turn errors of urllib3 into sentences.

    Raises:
        OSError: it is not to be tried again.
        _RetryError: it may be.
        LateError: it has taken too long.
    """
    try:
        yield
    except RefusedError as error:
        raise OSError(str(error)) from error
    except SSLError as error:
        transfer.check()
        raise OSError(f"its certificate is not accepted: {_last(error)}") from error
    except (HTTPError, UnreachableError) as error:
        transfer.check()
        if isinstance(error, UnreachableError):
            raise
        if isinstance(error, ReadTimeoutError):
            raise _RetryError("the server stops sending") from error
        if isinstance(inner := _innermost(error), IncompleteRead) and inner.expected:
            raise _RetryError(f"it ends {inner.expected:,} bytes too early") from error
        if isinstance(error, ProtocolError):
            raise _RetryError("the server breaks the connection") from error
        raise OSError(f"the answer cannot be read: {_last(error)}") from error


def _innermost(error: BaseException) -> BaseException:
    """The error that others wrap."""
    while error.args and isinstance(error.args[-1], BaseException):
        error = error.args[-1]
    return error


def _last(error: BaseException) -> str:
    """What an error says that others wrap."""
    inner: Any = _innermost(error)
    return str(getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or inner).partition("\n")[0]
