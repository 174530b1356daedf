"""A place that the driver and all nodes can write and read: a folder they share, or an object store.

Files are sealed with a key that only the processes of one run have, because their content is unpickled.
"""

import hashlib
import hmac
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, Any, TypeVar

from llm2clip_search.corpora.addresses import public_uri
from llm2clip_search.errors import ClusterError, Llm2ClipError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

ATTEMPTS = 4
PAUSE_S = 0.5
"""Before the second attempt; twice as long before each further one."""
_MAC = hashlib.sha256().digest_size
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class Staging:
    """The folder of one run."""

    place: str
    """Path or address of the folder that holds folders of runs."""
    owner: str
    """Whose runs these are, such as the path of an index: one run at a time."""
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    key: bytes = field(default_factory=lambda: token_bytes(32), repr=False)

    @property
    def folder(self) -> str:
        """Path or address of the run's own folder."""
        return f"{self._of_owner}/{self.run}"

    @property
    def _of_owner(self) -> str:
        return f"{self.place.rstrip('/')}/llm2clip-{hashlib.sha256(self.owner.encode()).hexdigest()[:16]}"

    def open(self) -> None:
        """Remove what dead runs of the owner have left, and make the folder.

        Raises:
            ClusterError: the place cannot be written.
        """
        self.remove()
        self._tried("written", lambda: _system(self.place).make(self.folder))

    def remove(self) -> None:
        """Remove the folders of all runs of the owner, as far as that is possible."""
        try:
            _system(self.place).remove(self._of_owner)
        except (OSError, Llm2ClipError):
            return  # what stays is removed by the next run

    def put(self, name: str, data: "bytes | pa.Buffer") -> None:
        """Store a file as a whole.

        Raises:
            ClusterError: it could not be written, several times.
        """
        sealed = b"".join((self._seal(name, data), data))
        self._tried("written", lambda: _system(self.place).write(f"{self.folder}/{name}", sealed))

    def get(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            ClusterError: it is not there, cannot be read, or is not what this run has stored.
        """
        sealed = self._tried("read", lambda: _system(self.place).read(f"{self.folder}/{name}"))
        data = sealed[_MAC:]
        if not hmac.compare_digest(sealed[:_MAC], self._seal(name, data)):
            raise ClusterError(f"{public_uri(self.folder)}/{name} is not what this run has stored.")
        return data

    def _seal(self, name: str, data: "bytes | pa.Buffer") -> bytes:
        seal = hmac.new(self.key, name.encode() + b"\0", "sha256")
        seal.update(data)
        return seal.digest()

    def discard(self, name: str) -> None:
        """Remove a file that is not needed any more; a failure does no harm."""
        try:
            _system(self.place).remove(f"{self.folder}/{name}")
        except (OSError, Llm2ClipError):
            return

    def _tried(self, what: str, call: Callable[[], _Value]) -> _Value:
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except OSError as error:
                if attempt + 1 == ATTEMPTS:
                    raise ClusterError(
                        f"The staging place {public_uri(self.place)} cannot be {what}: {first_line(error)}.",
                        hint="Name a place that every node can write with --staging, and see that there is room.",
                    ) from error
                time.sleep(PAUSE_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


class _Folder:
    """Of this machine, or shared."""

    def make(self, path: str) -> None:
        Path(path).mkdir(parents=True, mode=0o700)  # addresses in a plan may hold signatures

    def write(self, path: str, data: bytes) -> None:
        temporary = Path(f"{path}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.rename(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def remove(self, path: str) -> None:
        if Path(path).is_dir():
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)


class _ObjectStore:
    def __init__(self, files: Any) -> None:
        self._files = files

    def make(self, path: str) -> None:
        self._files.write(f"{path}/run", b"")  # so that a place that cannot be written is found at once

    def write(self, path: str, data: bytes) -> None:
        self._files.write(path, data)

    def read(self, path: str) -> bytes:
        data: bytes = self._files.read(path)
        return data

    def remove(self, path: str) -> None:
        for status in list(self._files.walk(path)):
            self._files.remove(status.uri)
        self._files.remove(path)


def _system(place: str) -> "_Folder | _ObjectStore":
    """What reads and writes at a place.

    Raises:
        CorpusError: a scheme that nothing here knows, or whose package is missing.
    """
    if "://" not in place:
        return _Folder()
    from llm2clip_search.corpora.files import files_of

    return _ObjectStore(files_of(place))
