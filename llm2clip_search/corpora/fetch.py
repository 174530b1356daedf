"""Fetching by HTTP from servers of strangers: politely, within limits, and from nowhere private."""

import random
import ssl
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from threading import BoundedSemaphore, Lock
from typing import Any, BinaryIO, Literal
from urllib.parse import unquote, urljoin

from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError, IncompleteRead, LocationParseError, ProtocolError, ReadTimeoutError, SSLError
from urllib3.util import Url, make_headers, parse_url

from llm2clip_search.corpora.addresses import whole_uri
from llm2clip_search.corpora.connections import HttpPool, HttpsPool, RefusedError, Transfer, UnreachableError, Watch
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


class _RetryError(Exception):
    """It may succeed later."""

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Host:
    """What is known of a host."""

    def __init__(self, requests: int) -> None:
        self.places = BoundedSemaphore(requests)
        self.not_before = 0.0
        self.down_until = 0.0
        self.why_down = ""


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
        address = _parsed(whole_uri(url))
        for _ in range(self._config.redirects + 1):
            answer = self._tried(address, method, part, into, is_image)
            if answer.status not in _MOVED or not answer.headers.get("location"):
                return answer
            target = _parsed(urljoin(address.url, answer.headers["location"].strip()))
            auth = address.auth if (target.host, target.port) == (address.host, address.port) else None
            address = target._replace(auth=auth)
        raise OSError(f"it is redirected more than {self._config.redirects} times")

    def _tried(
        self, address: Url, method: str, part: tuple[int, int] | None, into: BinaryIO | None, is_image: bool
    ) -> Fetched:
        host = self._host(f"{address.host}:{address.port}")
        for number in range(1, self._config.tries + 1):
            try:
                with host.places:
                    self._wait_for(host)
                    return self._once(address, method, part, into, is_image)
            except (_RetryError, UnreachableError) as error:
                wait = getattr(error, "wait", None)
                if wait is not None and wait > self._config.longest_wait_seconds:
                    raise OSError(f"{error} and asks to come back in {wait:,.0f} s") from error
                if number == self._config.tries:
                    if isinstance(error, UnreachableError):
                        host.down_until, host.why_down = time.monotonic() + self._config.down_seconds, str(error)
                    raise OSError(f"{error}{f', {number} times' if number > 1 else ''}") from error
                pause = self._config.back_off_seconds * 2 ** (number - 1) * random.uniform(0.75, 1.25)
                if wait is not None:
                    host.not_before = time.monotonic() + wait
                time.sleep(max(pause, wait or 0.0))
        raise AssertionError("the last try returns or raises")

    def _wait_for(self, host: _Host) -> None:
        now = time.monotonic()
        if now < host.down_until:
            raise OSError(host.why_down)
        if now < host.not_before:
            time.sleep(host.not_before - now)

    def _once(
        self, address: Url, method: str, part: tuple[int, int] | None, into: BinaryIO | None, is_image: bool
    ) -> Fetched:
        headers = {"User-Agent": self._agent, "Accept-Encoding": "identity"}
        if address.auth:
            headers |= make_headers(basic_auth=unquote(address.auth))
        if part is not None:
            headers["Range"] = f"bytes={part[0]}-{part[0] + part[1] - 1}"
        seconds = self._config.seconds if into is None else 86400.0
        transfer = Transfer(seconds=seconds, allow_private=self._config.allow_private)
        with self._watch.over(transfer), _as_sentences(transfer, seconds):
            plain = address._replace(auth=None, fragment=None).url
            response = self._pools.urlopen(
                method, plain, headers=headers, redirect=False, preload_content=False, assert_same_host=False
            )
            try:
                found = Fetched(status=response.status, headers=_lower(response))
                if _is_answer(found, method):
                    if is_image:
                        _check_image(found)
                    limit = part[1] if part is not None and found.status == 206 else self._config.max_bytes
                    body = self._body(response, limit, into) if found.status in (200, 206) else b""
                    if transfer.is_late:  # a body without a length ends where its connection does
                        raise TimeoutError
                    return Fetched(status=found.status, headers=found.headers, body=body)
                if found.status not in _MOVED:
                    raise _fault(found)
                return found
            finally:
                if response._fp is not None and not getattr(response._fp, "closed", True):  # a body is left
                    response.close()
                response.release_conn()

    def _body(self, response: BaseHTTPResponse, limit: int, into: BinaryIO | None) -> bytes:
        if response.length_remaining is not None and response.length_remaining > limit and into is None:
            raise OSError(f"it has {response.length_remaining:,} bytes, more than {limit:,}")
        blocks, size = [], 0
        while block := response.read1(_BLOCK, decode_content=True):
            if into is not None:
                into.write(block)
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


def _retry_after(value: str) -> float | None:
    """Seconds to wait, from a number of them or a date; None if a server says nothing that can be read."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


@contextmanager
def _as_sentences(transfer: Transfer, seconds: float) -> Iterator[None]:
    """Turn errors of urllib3 into sentences.

    Raises:
        OSError: it is not to be tried again.
        _RetryError: it may be.
    """
    late = f"it takes more than {seconds:,.0f} s"
    try:
        yield
    except RefusedError as error:
        raise OSError(str(error)) from error
    except SSLError as error:
        raise OSError(f"its certificate is not accepted: {_last(error)}") from error
    except (HTTPError, OSError) as error:
        if transfer.is_late:
            raise OSError(late) from error
        if isinstance(error, TimeoutError | ReadTimeoutError):
            raise _RetryError("the server stops sending") from error
        if isinstance(error, IncompleteRead):
            raise _RetryError(f"it ends {error.expected:,} bytes too early") from error
        if isinstance(error, ProtocolError):
            raise _RetryError("the server breaks the connection") from error
        if isinstance(error, HTTPError):
            raise OSError(f"the answer cannot be read: {_last(error)}") from error
        raise


def _last(error: BaseException) -> str:
    """The innermost message of an error that wraps others."""
    inner: Any = error
    while inner.args and isinstance(inner.args[-1], BaseException):
        inner = inner.args[-1]
    return str(getattr(inner, "verify_message", "") or getattr(inner, "reason", "") or inner).partition("\n")[0]
