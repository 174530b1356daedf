"""What is known of a file without reading it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStatus:
    """What is known of a file without reading it."""

    uri: str
    size: int
    """Bytes; 0 if unknown."""
    version: str
    """Changes with the content: times of this machine's files, the etag of an object; empty if there is nothing."""
    mtime_ns: int = 0
    """Nanoseconds since 1970; 0 if unknown."""
    former_version: str = ""
    """As of `Item`."""

    def __post_init__(self) -> None:
        # File systems and web servers tell times after 2262; the index holds none.
        if not -1 << 63 <= self.mtime_ns < 1 << 63:
            object.__setattr__(self, "mtime_ns", 0)
