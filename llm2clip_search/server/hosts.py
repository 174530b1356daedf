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

WILDCARDS = ("0.0.0.0", "::")
"""Addresses that stand for all addresses of the machine."""
_NAME = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9]([a-z0-9._-]*[a-z0-9])?)(:\d{1,5})?")
"""A host as a Host header names it, in lower case; the port is optional."""


def is_loopback(host: str) -> bool:
    """True if only programs of this machine can connect to a server that listens there."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def in_url(host: str) -> str:
    """A host as it stands in URLs and Host headers: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """The Host headers that are answered; build it with `of`."""

    own: frozenset[str]
    """Names of the machine, in lower case and without the port, which is that of the connection."""
    proxied: frozenset[str]
    """Whole headers that a reverse proxy passes on, in lower case."""
    any_address: bool
    """Whether IP addresses are answered, because the server listens on all addresses of the machine. A rebound name is
    never an address."""

    @classmethod
    def of(cls, host: str, allowed: Iterable[str] = ()) -> "Hosts":
        """What a server that listens on ``host`` answers.

        Args:
            host: an IP address or a name.
            allowed: further names, each with its port unless that is the default one of its scheme.

        Raises:
            InputError: something that no Host header can be, such as a URL.
        """
        own = {"localhost", "127.0.0.1", "[::1]", in_url(host.lower())}
        if not is_loopback(host):
            name = socket.gethostname().lower()
            own |= {name, f"{name}.local"}
        return cls(own=frozenset(own), proxied=frozenset(map(_checked, allowed)), any_address=host in WILDCARDS)

    def allow(self, header: bytes, port: int | None) -> bool:
        """True if a request with this Host header is answered, on a connection to this port."""
        given = header.decode("latin-1").lower()
        if given in self.proxied:
            return True
        name = given.removesuffix(f":{port}")
        if name == given and port != 80:  # whose port browsers leave out
            return False
        return name in self.own or (self.any_address and _is_address(name))


def _checked(name: str) -> str:
    lower = name.lower()
    if not _NAME.fullmatch(lower):
        raise InputError(f"{name!r} is not a host name, such as photos.example.org or photos.example.org:8443.")
    return lower


def _is_address(name: str) -> bool:
    try:
        return in_url(str(ip_address(name.strip("[]")))) == name
    except ValueError:
        return False
