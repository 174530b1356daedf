"""Batches of a tower that do not fit into memory are halved, so that another process on a GPU does not end a run."""

import logging
import sys
from collections.abc import Callable

import numpy as np

from llm2clip_search.errors import ModelError, first_line

logger = logging.getLogger(__name__)

_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to allocate memory",
    "bad_alloc",
    "alloc_failed",
)
"""Parts of the messages of torch, its GPU libraries, ONNX Runtime and C++, in lower case. Only torch's allocator of
a GPU has an error class of its own, and it says so too."""


class WithinMemory:
    """A tower that is called with as many rows at once as fit; rows are independent of each other."""

    def __init__(self, tower: Callable[[dict[str, np.ndarray]], np.ndarray], name: str) -> None:
        """``name`` says in logs and errors which tower it is."""
        self._tower, self._name = tower, name
        self._most = sys.maxsize

    def __call__(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Arrays ``[n, ...]`` to float32 ``[n, dim]``.

        Raises:
            ModelError: there is not enough memory for one row.
        """
        count, parts = len(next(iter(arrays.values()))), list[np.ndarray]()
        done = 0
        while done < count or not parts:
            size = min(self._most, count - done)
            try:
                parts.append(self._tower({name: array[done : done + size] for name, array in arrays.items()}))
                done += size
                continue
            except Exception as error:  # ONNX Runtime's have no base class of their own
                if not is_out_of_memory(error):
                    raise
                if size <= 1:
                    raise ModelError(
                        f"Memory ran out in the {self._name} tower with one row: {first_line(error)}.",
                        hint="Free memory of the device, or choose another one with --device.",
                    ) from error
            # Outside of the handler, whose error refers to what the failed call held.
            self._most = -(-size // 2)
            logger.warning(
                "Memory ran out in the %s tower with %d rows; from now on it gets %d at once.",
                self._name,
                size,
                self._most,
            )
            _release()
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, MemoryError):
        return True
    is_of_library = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime")
    return is_of_library and any(part in str(error).lower() for part in _MESSAGES)


def _release() -> None:
    """Give back what torch keeps of the failed call for later ones."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
