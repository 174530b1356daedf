"""FAISS's scan over float16 vectors where they lie, in a mapped file: nothing is converted or copied.

numpy has to convert every vector to float32 for each query, which takes 25 times as long as the scan itself.
"""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.vectorindex.faiss_library import IdBitmap, import_faiss, threads_for

ROUNDING = 1e-5
"""Largest difference between FAISS's and numpy's inner product of two unit vectors: sums in another order."""


GATHERED_ROWS = 4096
"""Rows that are copied at a time: 4 MB of 512 dimensions."""


class Float16Scan:
    """Inner products of queries with all rows of one array, best first."""

    def __init__(self, vectors: np.ndarray) -> None:
        """``vectors`` is float16 ``[rows, dim]``, C-contiguous; it is kept, and read at each search."""
        faiss = import_faiss()
        self._vectors = vectors
        index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        codes = vectors.reshape(-1).view(np.uint8)
        index.codes = faiss.MaybeOwnedVectorUInt8.create_view(
            faiss.swig_ptr(codes), codes.nbytes, _mapped_index().codes.owner
        )
        index.ntotal, index.is_trained = len(vectors), True
        self._index = index

    def search(self, queries: np.ndarray, k: int, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best rows, or of those in ``rows``, int64; equal scores in any order.

        Returns:
            float32 scores and int64 rows, each ``[n, k]``; -1 where there are fewer.
        """
        faiss = import_faiss()
        parameters = None
        if rows is not None:
            bitmap = IdBitmap(rows)  # kept until the search is over
            parameters = faiss.SearchParameters(sel=bitmap.selector)
        with threads_for(len(queries)):
            scores, found = self._index.search(queries, min(k, len(self._vectors)), params=parameters)
        return scores, found


def scan_gathered(
    vectors: np.ndarray, rows: np.ndarray, queries: np.ndarray, k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `Float16Scan.search` of some rows, part by part: each is copied into one buffer that stays in the cache.

    FAISS tests a selector for every row, whether it is allowed or not, which takes as long as comparing it.
    """
    buffer = np.empty((min(len(rows), GATHERED_ROWS), vectors.shape[1]), dtype=np.float16)
    for start in range(0, len(rows), GATHERED_ROWS):
        part = rows[start : start + GATHERED_ROWS]
        np.take(vectors, part, axis=0, out=buffer[: len(part)], mode="clip")  # other modes copy once more
        scores, found = Float16Scan(buffer[: len(part)]).search(queries, k, None)
        yield scores, np.where(found < 0, -1, part[found])


@cache
def is_available() -> bool:
    """True if FAISS is installed and can look at memory that is not its own."""
    try:
        _mapped_index()
    except Exception:  # an older FAISS lacks the class, another system the mapping
        return False
    return True


@cache
def _mapped_index() -> Any:
    """A small index whose codes FAISS has mapped itself, for the owner that they have.

    FAISS wants to know what keeps the memory of a view alive. `Float16Scan` does, so any owner will do, but Python
    cannot make one. The owner is part of this index, which therefore must stay.
    """
    faiss = import_faiss()
    index = faiss.IndexScalarQuantizer(8, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    index.add(np.zeros((1, 8), dtype=np.float32))
    with tempfile.TemporaryDirectory(prefix="llm2clip-") as folder:
        path = str(Path(folder) / "small.faiss")
        faiss.write_index(index, path)
        return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)
