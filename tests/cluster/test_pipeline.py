"""Units of work: their blocks, the order of their results, the staging place, and what is in flight."""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.cluster.arrivals import Arrivals
from llm2clip_search.cluster.pipeline import Usage, embed_units
from llm2clip_search.cluster.pool import ClusterConfig
from llm2clip_search.cluster.staging import Staging
from llm2clip_search.cluster.work import Block, EncoderSource, Note, Outcome, Work
from llm2clip_search.corpora.corpus import Item, Modality
from llm2clip_search.corpora.decode import Decoded
from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.errors import ClusterError, ImageError
from tests.support.encoders import ColourEncoder
from tests.support.images import png

NOTHING = np.empty(0, dtype=np.uint64)


def outcome(unit: int, first: int, rows: int, *, is_last: bool, name: str = "") -> Outcome:
    name = name or f"{unit}:{first}+{rows}"
    empty: dict[str, Any] = {"embedded": rows, "bytes": 0, "seconds": 0.0, "memory": 0, "node": "n"}
    return Outcome(unit=unit, first=first, rows=rows, is_last=is_last, name=name, **empty)


def blocks_of(lengths: list[int], cut: random.Random) -> list[Outcome]:
    """The blocks of units of some lengths, cut anywhere, as one attempt of a pipeline stores them."""
    found = []
    for unit, length in enumerate(lengths):
        cuts = sorted(cut.sample(range(1, length), cut.randint(0, length - 1))) if length > 1 else []
        for first, end in zip([0, *cuts], [*cuts, length], strict=True):
            found.append(outcome(unit, first, end - first, is_last=end == length))
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=6), st.integers(0, 2**32))
def test_each_position_of_each_unit_comes_once_and_in_order(lengths: list[int], seed: int) -> None:
    """Whatever the order, the repetitions and the cuts: attempts end at any block, the last one is complete."""
    cut, arrivals = random.Random(seed), Arrivals(len(lengths))
    taken: list[tuple[int, int]] = []

    def take() -> None:
        for name, skipped in arrivals.in_order():
            unit, _, rest = name.partition(":")
            first, _, rows = rest.partition("+")
            taken.extend((int(unit), position) for position in range(int(first) + skipped, int(first) + int(rows)))

    for is_final in (False, False, True):
        blocks = [each for each in blocks_of(lengths, cut) if each.unit in arrivals.missing]
        cut.shuffle(blocks)
        blocks += [cut.choice(blocks)] if blocks else []
        for block in blocks if is_final else blocks[: cut.randint(0, len(blocks))]:
            arrivals.add(block)
            take()
        arrivals.forget_incomplete()
    assert not arrivals.missing
    assert taken == [(unit, position) for unit, length in enumerate(lengths) for position in range(length)]


def test_a_block_comes_back_as_it_was() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    error = ImageError("broken", stage="decode", hint="Mend it.")
    results: list[Decoded | Note] = [
        Decoded(item=Item(uri="a", columns={"n": 1}), pixels=pixels),
        Decoded(item=Item(uri="b"), error=error),
        Note(),
    ]
    block = Block(unit=3, first=5, results=results, is_last=True)
    back = Block.of(block.with_pixels(), shape=(2, 3, 3))
    assert (back.unit, back.first, back.is_last, len(back.results)) == (3, 5, True, 3)
    first, second, third = back.results
    assert isinstance(first, Decoded)
    assert isinstance(second, Decoded)
    assert isinstance(third, Note)
    np.testing.assert_array_equal(first.pixels, pixels)
    assert first.item.columns == {"n": 1}
    assert second.error is not None
    assert (str(second.error), second.error.stage, second.error.hint) == ("broken", "decode", "Mend it.")
    first.vector, first.pixels = np.array([0.6, 0.8], dtype=np.float32), None
    table = back.with_vectors(2)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 2), "not a type of Ray's"
    [again, failed, _] = Block.of(table).results
    assert isinstance(again, Decoded)
    assert isinstance(failed, Decoded)
    np.testing.assert_array_equal(again.vector, first.vector)
    assert failed.vector is None


def test_files_of_the_staging_place_are_those_of_the_run(tmp_path: Path) -> None:
    """A file that is changed, or another one in its place, is refused before it is unpickled."""
    staging = Staging(place=str(tmp_path), owner="index")
    staging.open()
    staging.put("a", b"first")
    staging.put("b", b"second")
    assert staging.get("a") == b"first"
    folder = Path(staging.folder)
    assert not (folder.stat().st_mode & 0o077), "a plan may hold signatures"
    (folder / "a").write_bytes((folder / "b").read_bytes())
    with pytest.raises(ClusterError, match="/a is not what this run has stored"):
        staging.get("a")
    with pytest.raises(ClusterError, match="/b is not what this run has stored"):
        replace(staging, key=b"another").get("b")
    other = Staging(place=str(tmp_path), owner="another index")
    other.open()
    Staging(place=str(tmp_path), owner="index").open()  # of the next run, after this one has died
    assert not folder.exists()
    assert Path(other.folder).exists()


@dataclass(frozen=True, kw_only=True)
class Pictures(Work):
    """Units are seeds of images."""

    modality: Modality = "image"
    hangs: str = ""
    """A folder: whoever lists a unit while it has fewer than two files adds one, and waits."""

    def open(self, item: Item) -> bytes:
        return png(int(item.uri))

    def check(self) -> None:
        return

    def listed(self, unit: Any, encoder: EncoderSource) -> Iterator[Item | Decoded | Note]:
        if self.hangs and len(list(Path(self.hangs).iterdir())) < 2:
            (Path(self.hangs) / str(os.getpid())).touch()
            time.sleep(600)
        for seed in unit:
            yield Item(uri=str(seed))


class LargeEncoder(ColourEncoder):
    """Its images have 3 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocess = PreprocessConfig(height=1024, width=1024)


@pytest.mark.slow
def test_large_images_travel_in_bounded_blocks(tmp_path: Path, ray_address: str) -> None:
    """A unit of 240 MB passes nodes whose object stores have 200 MB, of which Ray Data takes half."""
    usage = Usage()
    results = embed_units(
        Pictures(),
        [range(80), range(80, 90)],
        EncoderSource.of(LargeEncoder()),
        ClusterConfig(address=ray_address, staging=str(tmp_path)),
        owner="test",
        batch_size=4,
        together=4,
        known=NOTHING,
        usage=usage,
    )
    found = [each.item.uri for each in results if isinstance(each, Decoded) and each.vector is not None]
    assert found == [str(seed) for seed in range(90)]
    assert usage.block_bytes < 20 << 20
    assert sum(usage.embedded.values()) == 90
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.slow
def test_a_pipeline_without_results_is_started_again(tmp_path: Path, ray_address: str) -> None:
    hung = tmp_path / "hung"
    hung.mkdir()
    results = embed_units(
        Pictures(hangs=str(hung)),
        [range(3), range(3)],
        EncoderSource.of(ColourEncoder()),
        ClusterConfig(address=ray_address, staging=str(tmp_path / "staging"), stall_s=45.0),
        owner="test",
        batch_size=4,
        together=4,
        known=NOTHING,
    )
    assert len([each for each in results if isinstance(each, Decoded)]) == 6
    assert len(list(hung.iterdir())) == 2, "each reader hung at first"
