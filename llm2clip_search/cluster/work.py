"""What a cluster embeds: units of work that nodes list, read, decode and encode, and what comes back of them."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora.corpus import Item, ItemReader, Modality
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.encoders import Encoder, TowerEncoder, load_encoder
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.images import MAX_PIXELS
from llm2clip_search.encoders.plugins import ENCODER_PLUGINS
from llm2clip_search.errors import ModelError

BLOCK_BYTES = 16 << 20
"""Pixels or texts that travel from a reader to an encoder at once, if that is not less than a batch of them. Ray counts
on several blocks for each reader and encoder, so large ones would leave nodes idle."""
BLOCK_ROWS = 1024
"""Rows of such a block at most, and so of one result file, embedded or not."""


class Note:
    """What listing a unit has found and is neither an item nor a result, such as the types of columns: it passes
    through to the caller, in order. Repeating a unit repeats its notes, so whoever reads them may see one again."""


class Work(ItemReader, Protocol):
    """What units are and how their items are read. Pickled, and copied to every node."""

    modality: Modality
    """What the items are."""
    max_pixels: int = MAX_PIXELS
    drafts: bool = True
    isolate: bool | None = None
    """As for `decode_item`."""

    def listed(self, unit: Any, encoder: "EncoderSource") -> Iterator[Item | Decoded | Note]:
        """The items of a unit, in the same order each time.

        A unit is repeated if its node dies, so nothing may be changed by listing it.
        """

    def is_divisible(self, unit: Any) -> bool:
        """True if a unit may give many blocks, as an archive does, so that it can keep several encoders busy."""
        return False

    def check(self) -> None:
        """Look at the source from this machine.

        Raises:
            OSError, Llm2ClipError: it cannot be reached from here.
        """


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """An encoder that each process loads itself."""

    name: str
    load_anew: Callable[[], Encoder]
    """Loads it; pickled."""
    fingerprint: str
    dim: int
    preprocess: PreprocessConfig

    @classmethod
    def of(cls, encoder: Encoder) -> "EncoderSource":
        """Where other machines get an encoder from: by its name, or as it is if no name leads to it."""
        load: Callable[[], Encoder] = partial(_as_it_is, encoder)
        if isinstance(encoder, TowerEncoder):
            load = partial(load_encoder, encoder.name, **encoder.placed)
        elif ENCODER_PLUGINS.distribution(encoder.name.partition(":")[0]) is not None:
            load = partial(load_encoder, encoder.name)
        return cls(
            name=encoder.name,
            load_anew=load,
            fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            preprocess=encoder.preprocess,
        )

    def load(self) -> Encoder:
        """The encoder, with the fingerprint that is wanted.

        Raises:
            ModelError: the model is not on this machine, or is another one.
        """
        encoder = self.load_anew()
        if encoder.fingerprint != self.fingerprint:
            raise ModelError(
                f"{self.name} has the fingerprint {encoder.fingerprint} there, but {self.fingerprint} here.",
                hint="Put the same model on every node.",
            )
        return encoder


def _as_it_is(encoder: Encoder) -> Encoder:
    return encoder


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A block of results that a node has stored."""

    unit: int
    first: int
    """Position of its first row in the unit."""
    rows: int
    is_last: bool
    """True if the unit ends with it."""
    name: str
    """Of its file in the staging place."""
    node: str
    embedded: int
    """Rows with a vector."""
    bytes: int
    """Of the block that the encoder got."""
    seconds: float
    """That the encoder took."""
    memory: int
    """Resident bytes of the encoder's process."""


class LostWorkError(Exception):
    """A pipeline has failed for a reason that another one need not have."""


def block_schema(dim: int | None) -> pa.Schema:
    """Columns of a block on its way: with pixels, or with vectors of a width.

    Vectors are lists of fixed size, not Ray's tensor type, which no other reader of Arrow files knows. Offsets of
    pixels have 64 bits, because a block of large images may exceed 2 GB.
    """
    payload = ("pixels", pa.large_binary()) if dim is None else ("vector", pa.list_(pa.float32(), dim))
    return pa.schema([("unit", pa.int64()), ("position", pa.int64()), ("result", pa.large_binary()), payload])


@dataclass(kw_only=True)
class Block:
    """Results of one unit that travel together."""

    unit: int
    first: int
    results: list[Decoded | Note] = field(default_factory=list)
    is_last: bool = False

    def with_pixels(self) -> pa.Table:
        """To be encoded."""
        pixels = [each.pixels if isinstance(each, Decoded) else None for each in self._rows()]
        payload = [None if each is None else each.tobytes() for each in pixels]
        return self._table(block_schema(None), pa.array(payload, pa.large_binary()))

    def with_vectors(self, dim: int) -> pa.Table:
        """Encoded."""
        found = [each.vector if isinstance(each, Decoded) else None for each in self._rows()]
        flat = np.zeros((len(found), dim), dtype=np.float32)
        for row, vector in enumerate(found):
            if vector is not None:
                flat[row] = vector
        mask = pa.array([each is None for each in found], pa.bool_())
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), dim, mask=mask)
        return self._table(block_schema(dim), vectors)

    def _rows(self) -> list[Decoded | Note | None]:
        """The results, and a row without one where the unit ends."""
        return [*self.results, *([None] if self.is_last else [])]

    def _table(self, schema: pa.Schema, payload: pa.Array) -> pa.Table:
        rows = self._rows()
        pickled = [None if each is None else pickle.dumps(_plain(each), pickle.HIGHEST_PROTOCOL) for each in rows]
        columns = [
            pa.array([self.unit] * len(rows), pa.int64()),
            pa.array(range(self.first, self.first + len(rows)), pa.int64()),
            pa.array(pickled, pa.large_binary()),
            payload,
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    @classmethod
    def of(cls, table: pa.Table, *, shape: Sequence[int] = ()) -> "Block":
        """The block that a table holds; with the ``shape`` ``[height, width, 3]`` of pixels, or with vectors.

        Only tables that this process or one of the same run has made may be read: results are pickled.
        """
        table = table.combine_chunks()
        pickled = table.column("result").to_pylist()
        block = cls(unit=table.column("unit")[0].as_py(), first=table.column("position")[0].as_py())
        block.is_last = pickled[-1] is None
        block.results = [pickle.loads(each) for each in pickled if each is not None]
        payload = table.column(3)
        flat = None if shape else payload.chunk(0).values.to_numpy(zero_copy_only=True)
        for row, result in enumerate(block.results):
            value = payload[row]
            if isinstance(result, Decoded) and value.is_valid:
                if flat is None:
                    result.pixels = np.frombuffer(value.as_buffer(), dtype=np.uint8).reshape(shape)
                else:
                    result.vector = flat.reshape(len(pickled), -1)[row]
        return block


def _plain(result: Decoded | Note) -> Decoded | Note:
    """A result without what travels as a column, and with columns that need no file of this node any more."""
    if not isinstance(result, Decoded):
        return result
    item = replace(result.item, columns=dict(result.item.columns), data=None)
    return replace(result, item=item, pixels=None, vector=None)
