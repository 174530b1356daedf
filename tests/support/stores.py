"""An index whose rows and vectors are known."""

from pathlib import Path

import numpy as np

from llm2clip_search.base.identity import ModelIdentity
from llm2clip_search.store import Row, Snapshot, Writer
from llm2clip_search.store.verification import verify_files

MODEL = ModelIdentity(name="m", revision="r", weights_sha256="w", preprocess_sha256="p")


def row(identifier: int, path: str | None = None) -> Row:
    return Row(
        id=identifier,
        path=path or f"{identifier}.jpg",
        content_hash=f"h{identifier}",
        size=1,
        mtime_ns=2,
        width=3,
        height=4,
    )


def vectors(*ids: int) -> np.ndarray:
    """One unit vector an id, exact in half precision."""
    out = np.zeros((len(ids), 4), dtype=np.float32)
    out[np.arange(len(ids)), np.array(ids, dtype=np.int64) % 4] = 1.0
    return out


def fill(folder: Path, *ids: int) -> None:
    with Writer.open(folder, model=MODEL, dim=4) as writer:
        writer.commit([row(i) for i in ids], vectors(*ids))


def check_intact(snapshot: Snapshot) -> None:
    """Every file that a snapshot names is what was committed."""
    assert verify_files(snapshot.folder, snapshot.manifest).damaged == ()


def live(folder: Path) -> dict[int, str]:
    return {r["id"]: r["path"] for r in Snapshot(folder).metadata().to_pylist()}
