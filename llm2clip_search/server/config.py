"""What the server is told when it starts."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm2clip_search.encoders.placement import Quantize
    from llm2clip_search.encoders.towers import Runtime

PORT = 8410


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Which indices are served, to whom, and within which limits."""

    indices: tuple[Path, ...] = ()
    """Index folders; the nearest ``.llm2clip`` in or above the current folder if there are none."""
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

    @property
    def is_local(self) -> bool:
        """True if only programs on this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def can_open_folder(self) -> bool:
        """True if whoever uses the page sits at this machine, as far as can be told."""
        return self.is_local and not self.allowed_hosts
