"""Caption embeddings on disk: what is read back, what a killed process loses, what is refused."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.base.progress import no_progress
from llm2clip_search.errors import StoreError
from llm2clip_search.store.lock import writer_lock
from llm2clip_search.training.data import caption_store
from llm2clip_search.training.data.caption_store import CaptionStore, fill_caption_store, read_store_info
from llm2clip_search.training.data.caption_table import caption_id
from tests.support.corpus import caption_table

TEXTS = [f"{'word ' * (n % 5)}{n}" for n in range(11)]


def vector_of(text: str) -> np.ndarray:
    return np.random.default_rng(caption_id(text) % 2**32).normal(size=6).astype(np.float32)


def embed(texts: Sequence[str]) -> np.ndarray:
    return np.stack([vector_of(text) for text in texts])


def fill(out: Path, texts: Sequence[str] = TEXTS, **options: Any) -> int:
    """`fill_caption_store` with small shards."""
    defaults: dict[str, Any] = {
        "embed": embed,
        "out": out,
        "llm": "abc",
        "llm_folder": Path("llm-one"),
        "width": 6,
        "progress": no_progress,
        "shard_rows": 4,
    }
    return fill_caption_store(caption_table([("a", text) for text in texts]), **(defaults | options))


def keys(texts: Sequence[str]) -> np.ndarray:
    return np.array([caption_id(text) for text in texts], dtype=np.int64)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".arrow", ".json", ".tmp")}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20), st.integers(1, 7), st.randoms())
def test_every_caption_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], rows: int, random: Any
) -> None:
    out = tmp_path_factory.mktemp("store")
    assert fill(out, texts, shard_rows=rows) == len(set(texts))
    store = CaptionStore(out)
    assert len(store) == read_store_info(out).rows == len(set(texts))
    random.shuffle(texts)
    found = store.embeddings(store.positions(keys(texts)))
    assert found.dtype == np.float16
    assert np.array_equal(found, embed(texts).astype(np.float16))


def test_float32_embeddings_are_stored_exactly(tmp_path: Path) -> None:
    fill(tmp_path, dtype="float32")
    store = CaptionStore(tmp_path)
    assert np.array_equal(store.embeddings(store.positions(keys(TEXTS))), embed(TEXTS))
    with pytest.raises(StoreError, match="holds float32 embeddings, not float16") as raised:
        fill(tmp_path)
    assert raised.value.hint.startswith("Continue with --dtype float32")


def test_only_new_captions_are_embedded(tmp_path: Path) -> None:
    fill(tmp_path)
    seen: list[str] = []

    def listening(texts: Sequence[str]) -> np.ndarray:
        seen.extend(texts)
        return embed(texts)

    assert fill(tmp_path, [*TEXTS, "new", "new", "newer"], embed=listening) == 2
    assert sorted(seen) == ["new", "newer"]
    assert len(CaptionStore(tmp_path)) == len(TEXTS) + 2
    assert fill(tmp_path, embed=listening) == 0


def test_progress_rises_to_the_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_store, "EMBED_ROWS", 3)
    said: list[tuple[int, int]] = []
    fill(tmp_path, progress=lambda _, done, total, __: said.append((done, total)))
    assert said == [(3, 11), (4, 11), (7, 11), (8, 11), (11, 11)]


def test_captions_of_similar_length_are_embedded_together(tmp_path: Path) -> None:
    seen: list[int] = []

    def listening(texts: Sequence[str]) -> np.ndarray:
        seen.extend(map(len, texts))
        return embed(texts)

    fill(tmp_path, embed=listening)
    assert seen == sorted(map(len, TEXTS))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("write", range(6))
def test_dying_at_any_write_loses_at_most_one_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int, late: bool
) -> None:
    class PowerCutError(BaseException):
        pass

    fill(tmp_path / "whole")
    done = 0
    rename = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal done
        done += 1
        if done <= write or late:
            rename(self, target)
        if done > write:
            raise PowerCutError
        return target

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(PowerCutError):
            fill(tmp_path / "killed")
    left = fill(tmp_path / "killed")
    assert left == 11 - min(4 * ((write + late) // 2), 11)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_store_is_completed_after_kill_9_during_embedding(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    child = os.fork()
    if child == 0:

        def killing(texts: Sequence[str]) -> np.ndarray:
            if (out / "000000.arrow").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            return embed(texts)

        out = tmp_path / "killed"
        fill(out, embed=killing)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (tmp_path / "killed" / ".000001.arrow.99.tmp").write_bytes(b"half a shard")
    assert len(CaptionStore(tmp_path / "killed")) == 4
    assert fill(tmp_path / "killed") == 7
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_store_of_another_llm_is_refused_with_both_names(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(
        StoreError, match=r"holds embeddings of LLM abc \(llm-one, 6 wide\), but llm-two is LLM xyz \(6"
    ):
        fill(tmp_path, llm="xyz", llm_folder=Path("llm-two"))
    with pytest.raises(StoreError, match=r"LLM abc \(llm-one, 6 wide\), but .* \(8 wide\)") as raised:
        fill(tmp_path, width=8)
    assert "--out" in raised.value.hint
    store = CaptionStore(tmp_path)
    store.require_models("abc", Path("moved"))
    with pytest.raises(StoreError, match=r"was embedded by LLM abc \(llm-one\), but llm-two is LLM xyz") as raised:
        store.require_models("xyz", Path("llm-two"))
    assert raised.value.hint.startswith("Run train embed with llm-two")


def test_captions_missing_in_the_store_are_counted(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(StoreError, match=r"lacks 2 of 4 captions") as raised:
        CaptionStore(tmp_path).positions(keys([TEXTS[0], "none", TEXTS[5], "nor this"]))
    assert raised.value.hint.startswith("Run train embed again")


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        (70_000.0, "'word 6' has a value of 70,000, but the largest float16 is 65,504", "Use --dtype float32."),
        (np.inf, "'word 6' has a value of inf, but the largest float16 is 65,504", ""),
        (np.nan, "'word 6' has a value of nan, but the largest float16 is 65,504", ""),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_embedding_beyond_float16_is_refused_with_its_caption(
    tmp_path: Path, value: float, message: str, hint: str
) -> None:
    def wild(texts: Sequence[str]) -> np.ndarray:
        vectors = embed(texts)
        vectors[[text == "word 6" for text in texts], 3] = value
        return vectors

    with pytest.raises(StoreError, match=message) as raised:
        fill(tmp_path, embed=wild)
    assert raised.value.hint == hint


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with writer_lock(tmp_path), pytest.raises(StoreError, match=f"is being written by process {os.getpid()} on"):
        fill(tmp_path)


def arrow(columns: dict[str, pa.Array]) -> bytes:
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


OTHERS = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8, np.float16)), 2)
SHARDS = {
    "missing": None,
    "empty": b"",
    "no Arrow": b"PAR1" * 100,
    "other columns": arrow({"id": pa.array([1])}),
    "another width": arrow({"caption_id": pa.array(range(4)), "embedding": OTHERS}),
}


@pytest.mark.parametrize("damage", [*SHARDS, "cut"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    fill(tmp_path)
    shard = tmp_path / "000001.arrow"
    data = shard.read_bytes()[:-20] if damage == "cut" else SHARDS[damage]
    shard.unlink()
    if data is not None:
        shard.write_bytes(data)
    for act in (CaptionStore, fill):
        with pytest.raises(StoreError, match=r"000001\.arrow is not a readable shard of a caption store \(") as raised:
            act(tmp_path)
        assert raised.value.hint.startswith("Run train embed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a caption store: it has no readable store.json"),
        ("{", "store.json does not describe a caption store"),
        ("[]", "store.json does not describe a caption store"),
        ('{"schema_version": 1, "shards": [], "surprise": 1}', "does not describe a caption store: .*surprise"),
        ('{"schema_version": 99}', "has schema version 99; this version reads 1"),
    ],
)
def test_invalid_stores_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=message) as raised:
        CaptionStore(tmp_path)
    assert raised.value.hint == ("Create one with train embed." if text is None else "")


def test_an_empty_store_is_not_opened(tmp_path: Path) -> None:
    fill(tmp_path)
    info = json.loads((tmp_path / "store.json").read_text()) | {"shards": [], "rows": 0}
    (tmp_path / "store.json").write_text(json.dumps(info))
    with pytest.raises(StoreError, match="holds no caption embeddings yet") as raised:
        CaptionStore(tmp_path)
    assert raised.value.hint == "Run train embed to its end."
