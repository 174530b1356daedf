"""Files that have changed without a trace in their size and time."""

import hashlib
import os
from pathlib import Path


def damage(path: Path) -> str:
    """Change one bit and set the time of the last change back; returns the new SHA-256."""
    times, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return hashlib.sha256(data).hexdigest()
