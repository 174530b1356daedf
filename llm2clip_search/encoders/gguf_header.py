"""Headers of GGUF files, read within bounds.

The library that reads these files makes several objects for each value that a header claims to hold, and transformers
builds a model of the sizes that it states, so both are checked before either reads a file of strangers.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from llm2clip_search.base.files import open_regular
from llm2clip_search.encoders.stated_sizes import check_sizes
from llm2clip_search.errors import ModelError

_STRING, _ARRAY = 8, 9
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""How `struct` unpacks a value, by the number of its type."""
_LONGEST_STRING = 1 << 24
_MOST_ELEMENTS = 1 << 22
"""Of all arrays, such as the tokens of a vocabulary, of which published ones have at most 262,144."""
_MOST_FIELDS, _MOST_TENSORS, _MOST_DIMENSIONS = 10_000, 100_000, 4


def gguf_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a GGUF file's tensors by name, if its header keeps to the bounds that a model has.

    Raises:
        ModelError: the file cannot be read, is cut off or is no GGUF file, or its header claims more fields, tensors
            or elements than any model has, or a size beyond `stated_sizes.LARGEST`.
    """
    try:
        with open_regular(path) as file:
            return _Header(file, path).shapes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or type(error).__name__}.") from error


class _Header:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._elements = 0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        magic, version, tensors, fields = self._values("4sIQQ")
        if magic != b"GGUF" or version not in {2, 3}:
            raise ModelError(f"{self._path} is not a GGUF file of version 2 or 3.")
        self._within("fields", fields, _MOST_FIELDS)
        self._within("tensors", tensors, _MOST_TENSORS)
        for _ in range(fields):
            name = self._string()
            # transformers takes sizes from fields such as llama.embedding_length.
            check_sizes({name.rpartition(".")[2]: self._value(*self._values("I"))}, self._path)
        return {self._string(): self._shape() for _ in range(tensors)}

    def _shape(self) -> tuple[int, ...]:
        (dimensions,) = self._values("I")
        self._within("dimensions of a tensor", dimensions, _MOST_DIMENSIONS)
        shape = self._values(f"{dimensions}Q")
        self._values("IQ")  # its type, and where it lies
        return shape

    def _value(self, kind: int) -> Any:
        """A value of a type; None for an array, whose elements are passed over."""
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._values(_SCALARS[kind])[0]
        if kind != _ARRAY:
            raise ModelError(f"{self._path} is not a readable GGUF file: it has a value of type {kind}.")
        kind, count = self._values("IQ")
        self._elements += count
        self._within("elements of arrays", self._elements, _MOST_ELEMENTS)
        if kind in _SCALARS:
            self._bytes(count * struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            for _ in range(count):
                self._string()
        else:
            raise ModelError(f"{self._path} is not a readable GGUF file: it has an array of type {kind}.")
        return None

    def _string(self) -> str:
        (length,) = self._values("Q")
        self._within("bytes of a string", length, _LONGEST_STRING)
        return self._bytes(length).decode("utf-8", "replace")

    def _values(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))

    def _bytes(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ModelError(f"{self._path} is not a readable GGUF file: its header is cut off.")
        return data

    def _within(self, what: str, count: int, most: int) -> None:
        if count > most:
            raise ModelError(f"{self._path} claims {count:,} {what}, but no model has more than {most:,}.")


def gguf_parameters(path: Path) -> int:
    """Elements of all tensors of a GGUF file.

    Raises:
        ModelError: as `gguf_shapes`.
    """
    return sum(map(math.prod, gguf_shapes(path).values()))
