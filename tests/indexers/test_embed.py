"""Embedding beside decoding and committing: threads, images of the same content, and failures."""

from pathlib import Path
from threading import Barrier, Lock, get_ident

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search import ModelError, index_folder
from llm2clip_search.encoders.images import read_rgb, to_pixels
from llm2clip_search.indexers import IndexConfig
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.images import png

ONE_BY_ONE = IndexConfig(batch_size=1, threads=2)


def test_commits_do_not_hold_up_the_encoder(tmp_path: Path) -> None:
    """One thread embeds, and another one takes what is embedded."""
    threads: dict[str, set[int]] = {"embed": set(), "take": set()}

    class Noting(ColourEncoder):
        def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
            threads["embed"].add(get_ident())
            return super().encode_pixels(pixels)

    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    index_folder(
        tmp_path,
        encoder=Noting(),
        index=tmp_path / "i",
        config=ONE_BY_ONE,
        progress=lambda what, done, total, figures: threads["take"].add(get_ident()),
    )
    assert threads["take"] == {get_ident()}
    assert len(threads["embed"]) == 1
    assert not threads["embed"] & threads["take"]


def test_an_encoder_gets_as_many_calls_at_once_as_it_wants(tmp_path: Path) -> None:
    """Each call waits for another one; the rows come in their order all the same."""
    both = Barrier(2, timeout=60)

    class Paired(ColourEncoder):
        batch_size, calls_at_once = 2, 2

        def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
            assert len(pixels) == self.batch_size
            both.wait()
            return super().encode_pixels(pixels)

    names = [f"{number}.png" for number in range(8)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(png(number))
    done = index_folder(tmp_path, encoder=Paired(), index=tmp_path / "i", config=IndexConfig(threads=2))
    assert (done.indexed, done.failed) == (8, 0)
    assert Snapshot(tmp_path / "i").metadata().column("path").to_pylist() == names


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))
def test_equal_images_are_embedded_once_and_fail_together(
    tmp_path_factory: pytest.TempPathFactory, contents: list[int], batch_size: int, bad: int, calls: int
) -> None:
    """Whether a twin lies in the same batch, in one that is in work, or in one that is past."""
    folder = tmp_path_factory.mktemp("twins")

    counting = Lock()  # the encoder counts its images

    class Refusing(ColourEncoder):
        calls_at_once = calls

        def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
            refused = to_pixels(read_rgb(png(bad)), self.preprocess)
            if any(np.array_equal(each, refused) for each in pixels):
                raise ValueError("this one cannot be embedded")
            if not pixels.any():  # whether the model works at all
                return np.ones((len(pixels), 1), dtype=np.float32)
            with counting:
                return super().encode_pixels(pixels)

    for number, content in enumerate(contents):
        (folder / f"{number:02}.png").write_bytes(png(content))
    config, encoder = IndexConfig(batch_size=batch_size, threads=2), Refusing()
    done = index_folder(folder, encoder=encoder, index=folder / "i", config=config)
    good = [content for content in contents if content != bad]
    assert (done.indexed + done.reused, done.failed) == (len(good), len(contents) - len(good))
    assert done.indexed == encoder.images == len(set(good))
    assert len(Snapshot(folder / "i").metadata()) == len(good)


def test_a_model_that_fails_keeps_what_was_embedded_before(tmp_path: Path) -> None:
    class Failing(ColourEncoder):
        calls = 0

        def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
            self.calls += 1
            if self.calls == 4:
                raise ModelError("The weights are gone.")
            return super().encode_pixels(pixels)

    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    with pytest.raises(ModelError, match="weights are gone"):
        index_folder(tmp_path, encoder=Failing(), index=tmp_path / "i", config=ONE_BY_ONE)
    assert len(Snapshot(tmp_path / "i").metadata()) == 3
