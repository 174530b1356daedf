"""Saved searches: a small file for each set of indices, in the folder of the user's data."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from llm2clip_search.base.files import replace_file
from llm2clip_search.base.identity import json_sha256
from llm2clip_search.errors import StoreError, first_line
from llm2clip_search.server.problems import Problem

MOST = 500
LONGEST_NAME, LONGEST_STATE = 200, 8_192
"""Characters."""

Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
State = Annotated[str, Meta(max_length=LONGEST_STATE)]
Value = TypeVar("Value")


class SavedSearch(Struct, kw_only=True, frozen=True):
    """A search under a name."""

    id: str
    name: str
    state: str
    """The query of the page's URL."""


class SavedSearches:
    """The saved searches of the served indices; any number of threads may use it."""

    def __init__(self) -> None:
        self._lock = Lock()

    def all(self, folders: Sequence[Path]) -> list[SavedSearch]:
        """In the order in which they were saved.

        Raises:
            StoreError: the file cannot be read.
        """
        return _read(_file(folders))

    def add(self, folders: Sequence[Path], name: str, state: str) -> SavedSearch:
        """Save a search.

        Raises:
            StoreError: the file cannot be read or written.
            Problem: ``too-large``: there are `MOST` already.
        """

        def change(held: list[SavedSearch]) -> SavedSearch:
            if len(held) >= MOST:
                raise Problem("too-large", f"{MOST} searches are saved already; delete one first.")
            held.append(SavedSearch(id=secrets.token_hex(8), name=name, state=state))
            return held[-1]

        return self._change(folders, change)

    def replace(self, folders: Sequence[Path], identifier: str, *, name: str | None, state: str | None) -> SavedSearch:
        """Change what is given of a saved search.

        Raises:
            StoreError: as `add`.
            Problem: ``not-found``.
        """

        def change(held: list[SavedSearch]) -> SavedSearch:
            at = _place(held, identifier)
            held[at] = SavedSearch(
                id=identifier,
                name=held[at].name if name is None else name,
                state=held[at].state if state is None else state,
            )
            return held[at]

        return self._change(folders, change)

    def remove(self, folders: Sequence[Path], identifier: str) -> None:
        """Delete a saved search; errors as `replace`."""
        self._change(folders, lambda held: held.pop(_place(held, identifier)))

    def _change(self, folders: Sequence[Path], change: Callable[[list[SavedSearch]], Value]) -> Value:
        file = _file(folders)
        with self._lock:
            held = _read(file)
            made = change(held)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                replace_file(file, msgspec.json.format(msgspec.json.encode(held)))
            except OSError as error:
                raise StoreError(f"{file} could not be written: {first_line(error)}.") from error
        return made


def _file(folders: Sequence[Path]) -> Path:
    from platformdirs import user_data_path

    names = [str(folder) for folder in folders]
    return user_data_path("llm2clip-search", appauthor=False) / "saved" / f"{json_sha256(names)[:16]}.json"


def _read(file: Path) -> list[SavedSearch]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[SavedSearch])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:  # it is not written over: somebody may want to mend it
        raise StoreError(f"The saved searches in {file} cannot be read: {first_line(error)}.") from error


def _place(held: Sequence[SavedSearch], identifier: str) -> int:
    for at, each in enumerate(held):
        if each.id == identifier:
            return at
    raise Problem("not-found", "There is no saved search with this id.", parameter="id")
