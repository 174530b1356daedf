"""Connections of the fetcher: which addresses they may lead to, and how long they may last."""

import ipaddress
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Thread, local
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_OF_CLOUDS = frozenset(ipaddress.ip_address(each) for each in ("168.63.129.16", "192.0.0.192"))
"""Metadata services with addresses that otherwise look public: those of Azure and Oracle."""
_LOOK_SECONDS = 0.25


class RefusedError(Exception):
    """A host has only addresses that the caller may not reach. No `OSError`, which urllib3 would wrap."""


class UnreachableError(Exception):
    """A host does not answer. No `OSError`, which urllib3 would wrap."""


class LateError(Exception):
    """A transfer has taken too long."""


class Transfer:
    """One request of one thread, from its connection to the last byte."""

    def __init__(self, *, deadline: float, allow_private: bool) -> None:
        """A request that ends by a time of `time.monotonic`."""
        self.deadline, self.allow_private = deadline, allow_private
        self.socket: socket.socket | None = None

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def check(self) -> None:
        """Find out whether it failed because of its time.

        Raises:
            LateError: it has taken too long.
        """
        if self.is_late():
            raise LateError


_CURRENT = local()
"""The transfer of each thread: urllib3 has no other way to pass it to a connection."""


class Watch:
    """Ends transfers that take too long, whatever they wait for: a server can send one byte each second for ever."""

    def __init__(self) -> None:
        self._transfers: set[Transfer] = set()
        self._lock, self._wanted = Lock(), Event()
        self._thread: Thread | None = None

    @contextmanager
    def over(self, transfer: Transfer) -> Iterator[None]:
        """Watch a transfer of this thread."""
        with self._lock:
            self._transfers.add(transfer)
            if self._thread is None:
                self._thread = Thread(target=self._look, name="fetch-watch", daemon=True)
                self._thread.start()
        self._wanted.set()
        _CURRENT.transfer = transfer
        try:
            yield
        finally:
            _CURRENT.transfer = None
            with self._lock:
                self._transfers.discard(transfer)
                if not self._transfers:
                    self._wanted.clear()

    def _look(self) -> None:
        while True:
            self._wanted.wait()
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                late = [each.socket for each in self._transfers if each.is_late()]
            for each in late:
                if each is not None:
                    with suppress(OSError):  # closed by now
                        socket.socket.shutdown(each, socket.SHUT_RDWR)


def is_public(address: str) -> bool:
    """True if an IP address is one of the public internet: neither of this machine nor of a private network, neither
    multicast nor a metadata service of a cloud; that which an IPv6 address wraps counts."""
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:
        wrapped = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if wrapped is None and found in _NAT64:
            wrapped = ipaddress.ip_address(int(found) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(str(wrapped))
    return found.is_global and not found.is_multicast and not found.is_reserved and found not in _OF_CLOUDS


def _connected(host: str, port: int, timeout: float | None) -> socket.socket:
    """A connection to a host. The address that is checked is the one that is connected to, so a name server that
    answers differently the second time gains nothing.

    Raises:
        RefusedError: all its addresses are private.
        OSError: none of its addresses answers, or it has none.
    """
    transfer: Transfer = _CURRENT.transfer
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    allowed = [each for each in found if transfer.allow_private or is_public(str(each[4][0]))]
    if found and not allowed:
        raise RefusedError(f"{host} leads to the address {found[0][4][0]} of this machine or a private network")
    last: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in allowed:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(timeout)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transfer.socket = connection
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            last = error
            if transfer.is_late():
                break
    raise last


class _HttpConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        super().request(*args, **kwargs)
        _CURRENT.transfer.socket = self.sock


class _HttpsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _checked(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        super().request(*args, **kwargs)
        _CURRENT.transfer.socket = self.sock


def _checked(connection: HTTPConnection) -> socket.socket:
    timeout = connection.timeout
    try:
        return _connected(connection.host, connection.port or 80, timeout if isinstance(timeout, int | float) else None)
    except TimeoutError as error:
        raise UnreachableError(f"{connection.host} does not answer within {timeout:.0f} s") from error
    except socket.gaierror as error:
        raise UnreachableError(f"there is no host {connection.host}") from error
    except OSError as error:
        raise UnreachableError(
            f"{connection.host} cannot be reached: {(error.strerror or str(error)).lower()}"
        ) from error


class HttpPool(HTTPConnectionPool):
    """Connections to one host by HTTP."""

    ConnectionCls = _HttpConnection


class HttpsPool(HTTPSConnectionPool):
    """Connections to one host by HTTPS."""

    ConnectionCls = _HttpsConnection
