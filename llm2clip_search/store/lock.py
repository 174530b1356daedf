"""The lock that allows one writer at a time, and says who holds it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from llm2clip_search.errors import StoreError


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the index folder's write lock; the kernel drops it if this process dies.

    Raises:
        StoreError: another process holds it, named by pid, host and time.
    """
    owner = folder / "writer.json"
    lock = FileLock(folder / "writer.lock", timeout=0)
    try:
        with lock:
            owner.write_text(
                json.dumps(
                    {
                        "pid": os.getpid(),
                        "host": socket.gethostname(),
                        "since": datetime.now().isoformat(timespec="seconds"),
                    }
                )
            )
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
    except Timeout as error:
        try:
            held = json.loads(owner.read_text())
            who = f"process {held['pid']} on {held['host']} since {held['since']}"
        except (OSError, ValueError, KeyError):
            who = "another process"
        raise StoreError(f"{folder} is being written by {who}.", hint="Wait for it, or stop it.") from error
