"""FAISS files that are sound but not those of the manifest: refused, and never searched."""

from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.errors import StoreError
from llm2clip_search.vectorindex.faiss_index import create_index, load_index
from llm2clip_search.vectorindex.kinds import Hnsw, IndexKind, Ivf

faiss = pytest.importorskip("faiss")
DIM, ROWS = 16, 300
KINDS: list[IndexKind] = [Hnsw(), Ivf(lists=4)]
FACTORIES = ["Flat", "IDMap,Flat", "HNSW8", "IDMap,HNSW8,Flat", "IVF4,Flat", "IVF8,Flat", "PCA16,IVF4,Flat", "SQ8"]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_another_kind_of_file_is_refused_or_searched(
    tmp_path: Path, kind: IndexKind, factory: str, metric: int
) -> None:
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = faiss.index_factory(DIM, factory, metric)
    index.train(vectors)
    if "IDMap" in factory or "IVF" in factory:
        index.add_with_ids(vectors, np.arange(ROWS))
    else:
        index.add(vectors)
    path = tmp_path / "index.faiss"
    faiss.write_index(index, str(path))
    try:
        loaded = load_index(kind, path, rows=ROWS, dim=DIM)
    except StoreError:
        return
    _, found = loaded.search(vectors[:3], 1)
    assert found.ravel().tolist() == [0, 1, 2]
    assert sorted(loaded.ids().tolist()) == list(range(ROWS))
    assert metric == faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
def test_what_is_no_faiss_file_is_refused(tmp_path: Path, kind: IndexKind) -> None:
    path = tmp_path / "index.faiss"
    create_index(kind, dim=DIM).save(path)
    whole = path.read_bytes()
    for data in (b"", b"x", b"PK\x03\x04" * 100, b"\x80\x04cos\nsystem\n(S'id'\ntR.", whole[: len(whole) // 2]):
        path.write_bytes(data)
        with pytest.raises(StoreError):
            load_index(kind, path, rows=ROWS, dim=DIM)
