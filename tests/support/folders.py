"""Folders of photographs and what an index says of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm2clip_search.indexers import IndexConfig, IndexSummary, index_folder
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder


def update(
    folder: Path, encoder: ColourEncoder, *, exclude: Sequence[str] | None = None, **config: object
) -> IndexSummary:
    """Index a folder into ``.llm2clip`` beside it."""
    return index_folder(
        folder,
        encoder=encoder,
        index=folder.parent / ".llm2clip",
        exclude=exclude,
        config=IndexConfig(batch_size=4, threads=2, **config),  # type: ignore[arg-type]
    )


def rows(folder: Path) -> dict[str, dict[str, object]]:
    return {row["path"]: row for row in Snapshot(folder.parent / ".llm2clip").metadata().to_pylist()}


def check(folder: Path, encoder: ColourEncoder) -> None:
    """Every readable file has one live row, and its vector is the encoder's own of that file."""
    snapshot = Snapshot(folder.parent / ".llm2clip")
    found = {row["path"]: row["id"] for row in snapshot.metadata().to_pylist()}
    files = sorted(path for path in folder.rglob("*.png") if path.is_file())
    assert sorted(found) == sorted(path.relative_to(folder.parent).as_posix() for path in files)
    assert snapshot.manifest.live == len(files)
    if files:
        expected = encoder.encode_images(files)
        stored = snapshot.vectors([found[path.relative_to(folder.parent).as_posix()] for path in files])
        np.testing.assert_allclose(stored, expected, atol=1e-3)
