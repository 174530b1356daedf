"""Which files of an index are known to be what was committed, so that a search need not read them whole to find out.

The manifest holds a checksum of every file, but comparing it means to read all of the file. ``checked.json``, beside
the manifest, which does not name it, holds the state that a file had when its checksum was taken (`base.checksums`).
Any other file is read before its first use: those of a copied index once, and one that was damaged after its commit.
What the file system does not notice itself, such as a medium that decays, a full verification finds.
"""

from pathlib import Path

from llm2clip_search.base.checksums import KnownChecksums
from llm2clip_search.base.files import file_sha256
from llm2clip_search.errors import DamagedError
from llm2clip_search.store.faults import unreadable


class CheckedFiles(KnownChecksums):
    """What is known of the files of one index folder."""

    def confirm(self, path: Path, sha256: str | None, *, again: bool = False) -> None:
        """Compare a file with its checksum, unless it is known to have it.

        Args:
            sha256: None if an earlier version wrote the file without one, and nobody can tell.
            again: compare it in any case.

        Raises:
            DamagedError: it is missing or another one.
            StoreError: it cannot be reached.
        """
        if sha256 is None:
            return
        try:
            found = file_sha256(path) if again else self.sha256(path)
        except OSError as error:
            raise unreadable(path, error) from error
        if found != sha256:
            raise DamagedError(f"{path} differs from what was committed: its checksum is not the manifest's.")
