"""The names by which a server may be asked: what a request's Host header has to be.

A page anywhere on the web may have a name that resolves to 127.0.0.1 (DNS rebinding). Its requests then reach this
server as if the server's own page had sent them; only the name that the browser sends along gives them away.
"""

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from llm2clip_search.errors import InputError

_NAME = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9]([a-z0-9._-]*[a-z0-9])?)(:\d{1,5})?")
"""A host as a Host header names it, in lower case; the port is optional."""


def is_loopback(host: str) -> bool:
    """True if only programs of this machine can connect to a server that listens there."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_name(name: str) -> str:
    """A name of a server behind a proxy as its Host headers have it, such as ``photos.example.org``.

    Raises:
        InputError: it is not a host name, such as a URL.
    """
    lower = name.lower()
    if not _NAME.fullmatch(lower):
        raise InputError(f"{name!r} is not a host name, such as photos.example.org or photos.example.org:8443.")
    return lower


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """The Host headers that are accepted; build it with `of`."""

    names: frozenset[bytes]
    """In lower case, with the port as browsers send it."""
    proxied: frozenset[bytes]
    """Those of a reverse proxy in front of the server, which may speak TLS."""
    port: int
    any_address: bool
    """Whether an IP address with the port is accepted too, because the server listens on all addresses of the machine.
    A rebound name is never an address."""

    @classmethod
    def of(cls, host: str, port: int, allowed: Iterable[str] = ()) -> "Hosts":
        """What a server that listens on ``host`` and ``port`` accepts.

        Args:
            host: an IP address or a name.
            allowed: further names, each with its port unless that is the default one of its scheme.

        Raises:
            InputError: as `allowed_name`.
        """
        bare = {"localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host.lower()}
        if not is_loopback(host):
            own = socket.gethostname().lower()
            bare |= {own, f"{own}.local"}
        names = {f"{name}:{port}" for name in bare} | (bare if port == 80 else set())
        proxied = {allowed_name(name) for name in allowed}
        return cls(
            names=frozenset(name.encode() for name in names | proxied),
            proxied=frozenset(name.encode() for name in proxied),
            port=port,
            any_address=host in ("0.0.0.0", "::"),
        )

    def __contains__(self, header: bytes) -> bool:
        """True if the server may answer to this Host header."""
        return header.lower() in self.names or (self.any_address and self._is_address(header))

    def _is_address(self, header: bytes) -> bool:
        name, _, port = header.decode("latin-1").rpartition(":")
        try:
            address = ip_address(name.strip("[]"))
        except ValueError:
            return False
        return port == str(self.port) and name == (f"[{address}]" if address.version == 6 else str(address))
