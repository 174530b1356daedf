"""FAISS itself: imported where it is used, with an error that says how to install it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.encoders.placement import has_nvidia_driver
from llm2clip_search.errors import StoreError


def import_faiss() -> Any:
    """FAISS, whichever of its builds is installed.

    Raises:
        StoreError: none is.
    """
    try:
        import faiss
    except ImportError as error:
        raise StoreError(
            "FAISS is not installed.",
            hint="Install it with pip install 'llm2clip-search[cpu]', or [gpu] or [cuvs] for NVIDIA GPUs.",
        ) from error
    return faiss


def write_index(index: Any, path: Path) -> None:
    """Write a FAISS index to a file.

    Raises:
        OSError: as of any file that is written; FAISS itself tells the cause in its message only.
    """
    try:
        import_faiss().write_index(index, str(path))
    except RuntimeError as error:
        causes = (code for code in errno.errorcode if os.strerror(code) in str(error))
        code = next(causes, errno.EIO)
        raise OSError(code, os.strerror(code), str(path)) from error


def gpu_count() -> int:
    """GPUs that FAISS can use, none if it is not installed; it is imported only where there is an NVIDIA driver."""
    if not has_nvidia_driver():
        return 0
    try:
        faiss = import_faiss()
    except StoreError:
        return 0
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


@contextmanager
def threads_for(queries: int) -> Iterator[None]:
    """FAISS on one thread for a single query, which gives others nothing to share: waking them takes as long as the
    search, and many times as long where other programs keep the cores busy."""
    if queries > 1:
        yield
        return
    faiss = import_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


class IdBitmap:
    """FAISS's selector of some ids: one bit per id, so that testing one costs the same however many are allowed."""

    def __init__(self, ids: np.ndarray) -> None:
        """``ids`` is int64, none below zero."""
        faiss = import_faiss()
        bits = np.zeros(int(ids.max()) + 1 if len(ids) else 1, dtype=bool)
        bits[ids] = True
        self._packed = np.packbits(bits, bitorder="little")  # FAISS only points to it
        self.selector = faiss.IDSelectorBitmap(len(self._packed), faiss.swig_ptr(self._packed))
