"""What the server is told when it starts."""

import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.errors import InputError
from llm2clip_search.server.hosts import is_loopback

if TYPE_CHECKING:
    from llm2clip_search.encoders.placement import Quantize
    from llm2clip_search.encoders.towers import Runtime

PORT = 8410
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")
"""What RFC 6750 allows in a header; cookies can hold it too."""


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Which indices are served, to whom, and within which limits."""

    indices: tuple[Path, ...] = ()
    """Index folders; the nearest ``.llm2clip`` in or above the current folder if there are none."""
    engine: str | None = None
    """URL of a serving engine that the index was published to; pages, pictures and counts still need the index."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = PORT
    token: str | None = None
    """What a request has to know; None asks for nothing, which is meant for loopback only."""
    allowed_hosts: tuple[str, ...] = ()
    """Further values of the Host header, such as the name behind which a reverse proxy serves this."""
    hide_location: bool = False
    """Leave out where pictures were taken: neither coordinates nor original files, which hold them, are served."""
    model: str | None = None
    """As for `engine.open_index`."""
    runtime: "Runtime" = "auto"
    device: str = "auto"
    quantize: "Quantize" = "none"
    queue: int = 32
    """Requests that may wait for the LLM, for the vision tower, and for a search; further ones are refused as busy."""
    json_bytes: int = 1 << 20
    """Largest body of a request in JSON."""
    upload_bytes: int = 64 << 20
    """Largest picture to be uploaded."""

    def __post_init__(self) -> None:
        """Refuse what would let strangers in.

        Raises:
            InputError: no token although other machines can reach the server, or one that is easily guessed.
        """
        if self.token is None and not self.is_local:
            raise InputError("A server that other machines can reach needs a token.")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise InputError(
                "A token has at least 16 characters, which are letters, digits and any of - . _ ~ + /.",
                hint="Without LLM2CLIP_TOKEN, a token is generated.",
            )

    @property
    def is_local(self) -> bool:
        """True if only programs on this machine can reach the server, as far as the server can know: behind a proxy
        with a name of its own, anybody may."""
        return not needs_token(self.host, self.allowed_hosts)

    @property
    def can_open_folder(self) -> bool:
        """True if whoever uses the page sits at this machine, as far as can be told."""
        return self.is_local


def needs_token(host: str, allowed_hosts: Collection[str]) -> bool:
    """True if other machines may reach a server that listens on ``host``, directly or by a reverse proxy."""
    return bool(allowed_hosts) or not is_loopback(host)


def new_token() -> str:
    """A token of 256 random bits."""
    return secrets.token_urlsafe(32)
