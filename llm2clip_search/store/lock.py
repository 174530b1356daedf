"""The lock that allows one writer at a time, and says who holds it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from llm2clip_search.errors import StoreError
from llm2clip_search.store.faults import writing


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the index folder's write lock; the kernel drops it if this process dies.

    Raises:
        StoreError: another process holds it, named by pid, host and time; or the folder cannot be written.
    """
    owner = folder / "writer.json"
    lock = FileLock(folder / "writer.lock", timeout=0)
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().isoformat(timespec="seconds"),
    }
    with writing(folder / "writer.lock"):
        try:
            lock.acquire()
        except Timeout as error:
            try:
                held = json.loads(owner.read_text())
                who = f"process {held['pid']} on {held['host']} since {held['since']}"
            except (OSError, ValueError, KeyError):
                who = "another process"
            raise StoreError(f"{folder} is being written by {who}.", hint="Wait for it, or stop it.") from error
    try:
        with writing(owner):
            owner.write_text(json.dumps(holder))
        yield
    finally:
        with suppress(OSError):  # the folder may be gone
            owner.unlink()
        lock.release()
