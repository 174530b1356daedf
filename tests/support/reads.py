"""What an index run asks of files, wherever they are."""

from collections.abc import Callable
from typing import Any

import pytest

from llm2clip_search.corpora.containers import containers
from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.object_store import ObjectStoreFiles
from llm2clip_search.corpora.web import WebFiles


def note_reads(patch: pytest.MonkeyPatch) -> list[str]:
    """Every call that reads a file, or what is in it, from now on: of readers, and of where the files are."""
    asked = list[str]()
    for owner in (LocalFiles, WebFiles, ObjectStoreFiles, *(type(reader) for reader in containers())):
        for name in {"parts", "schema", "open", "read", "read_range"} & {*dir(owner)}:
            original = getattr(owner, name)

            def noted(self: Any, *rest: Any, original: Callable[..., Any] = original) -> Any:
                asked.append(f"{original.__qualname__}{rest}")
                return original(self, *rest)

            patch.setattr(owner, name, noted)
    return asked
