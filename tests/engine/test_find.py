"""Queries find images or texts, and some results of each file, against plain Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.engine import Searcher, SearchIndex, find_duplicates
from llm2clip_search.errors import QueryError
from llm2clip_search.evaluation.metrics import retrieval_ranks
from llm2clip_search.store import Row, Snapshot, SourceEntry, Writer
from tests.support.encoders import ColourEncoder
from tests.support.several import together
from tests.support.vectors import clustered

KINDS = st.lists(st.sampled_from(["image", "text"]), min_size=1, max_size=40)


def mixed(folder: Path, kinds: list[str], *, parts: int = 3, seed: int = 1) -> SearchIndex:
    """An index of rows of some kinds, of which ``parts`` in a row are those of one file."""
    encoder = ColourEncoder()
    vectors = clustered(seed, len(kinds))
    with Writer.open(folder / ".llm2clip", model=encoder.identity, dim=encoder.dim) as writer:
        rows = [
            Row(
                id=i,
                path=f"{i // parts}.tar#{i}.png" if kind == "image" else f"{i // parts}.md#char={i},{i + 9}",
                content_hash=f"{i % 7:032x}",
                size=i,
                mtime_ns=0,
                width=i if kind == "image" else None,
                height=1 if kind == "image" else None,
                modality=kind,
                text=f"passage {i}" if kind == "text" else None,
            )
            for i, kind in zip(writer.allocate(len(kinds)), kinds, strict=True)
        ]
        half = len(rows) // 2
        for block, some in ((rows[:half], vectors[:half]), (rows[half:], vectors[half:])):
            writer.commit(block, some)
        writer.set_sources([SourceEntry(uri=kind, modality=kind) for kind in sorted(set(kinds))], base="")
    return SearchIndex(Snapshot(folder / ".llm2clip"), encoder)


def named(searcher: Searcher, **options: Any) -> list[tuple[str | None, int]]:
    return [(hit.index, hit.id) for hit in searcher.query("dusk", **options).hits]


@settings(max_examples=30, deadline=None)
@given(
    kinds=st.lists(KINDS, min_size=1, max_size=2),
    find=st.sampled_from(["images", "texts", None]),
    where=st.sampled_from([None, "size > 5", "size > 5 OR modality = 'text'"]),
    per_file=st.sampled_from([None, 1, 2]),
    k=st.integers(1, 12),
    offset=st.integers(0, 8),
)
def test_rows_of_the_other_kind_are_no_candidates(
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[list[str]],
    find: Any,
    where: str | None,
    per_file: int | None,
    k: int,
    offset: int,
) -> None:
    """The cosines of all rows, filtered and counted by file in Python, page by page."""
    folder = tmp_path_factory.mktemp("mixed")
    searcher = together([mixed(folder / str(n), each, seed=n) for n, each in enumerate(kinds)])
    held = {kind for each in kinds for kind in each}
    wanted = find or ("images" if "image" in held else "texts")
    if wanted[:-1] not in held:
        with pytest.raises(QueryError, match=rf"holds? no {wanted}\.$"):
            searcher.query("dusk", find=find)
        return
    vector = ColourEncoder().encode_texts(["dusk"])[0]
    scored = []
    for number, each in enumerate(kinds):
        snapshot = searcher.parts[number].snapshot
        scores = snapshot.vectors(list(range(len(each)))).astype(np.float64) @ vector
        for i, kind in enumerate(each):
            is_met = where is None or i > 5 or ("modality" in where and kind == "text")
            if kind == wanted[:-1] and is_met:
                scored.append((-np.float32(scores[i]), number, i))
    seen: dict[tuple[int, int], int] = {}
    expected = []
    for _, number, i in sorted(scored):
        seen[number, i // 3] = seen.get((number, i // 3), 0) + 1
        if per_file is None or seen[number, i // 3] <= per_file:
            expected.append((str(searcher.parts[number].snapshot.folder) if len(kinds) > 1 else None, i))
    options = {"find": find, "where": where, "per_file": per_file}
    assert named(searcher, k=1000, **options) == expected
    assert named(searcher, k=k, offset=offset, **options) == expected[offset : offset + k]
    [answer] = searcher.query_batch(["dusk"], k=k, offset=offset, **options)
    assert [(hit.index, hit.id) for hit in answer.hits] == expected[offset : offset + k]
    assert answer.find == wanted


def test_an_index_of_one_kind_needs_no_filter(tmp_path: Path) -> None:
    for kind in ("image", "text"):
        index = mixed(tmp_path / kind, [kind] * 6)
        for find in (None, f"{kind}s"):
            assert index.query("dusk", find=find).plan.strategy == "exact"  # type: ignore[arg-type]
    both = mixed(tmp_path / "both", ["image", "text"])
    plan = both.query("dusk").plan
    assert (plan.strategy, plan.matches) == ("exact over matches", 1)


def test_hits_say_what_they_are(tmp_path: Path) -> None:
    index = mixed(tmp_path, ["image", "text"], parts=1)
    [image] = index.query(like=1).hits
    assert (image.modality, image.text, image.part) == ("image", None, "0.png")
    assert (image.file, image.path) == (f"{tmp_path}/0.tar", tmp_path / "0.tar")
    assert image.exists is False
    [text] = index.query(like=0, find="texts").hits
    assert (text.modality, text.text, text.part, text.file) == ("text", "passage 1", "char=1,10", f"{tmp_path}/1.md")
    (tmp_path / "1.md").write_text("0123456789 and more")
    assert text.exists is True
    assert text.open() == b"123456789"
    shown = text.to_dict()
    assert (shown["modality"], shown["text"], shown["part"]) == ("text", "passage 1", "char=1,10")
    assert shown["path"] == f"{tmp_path}/1.md#char=1,10"


def test_captions_at_once_find_what_a_query_finds(tmp_path: Path) -> None:
    index = mixed(tmp_path, ["image", "text"] * 10)
    for find in (None, "images", "texts"):
        _, ids = index.query_texts(["dusk"], k=5, find=find)
        assert ids[0].tolist() == [hit.id for hit in index.query("dusk", k=5, find=find).hits]


def test_duplicates_are_of_one_kind(tmp_path: Path) -> None:
    encoder = ColourEncoder()
    kinds = ["image", "text"] * 4
    with Writer.open(tmp_path / "i", model=encoder.identity, dim=encoder.dim) as writer:
        rows = [
            Row(id=i, path=f"{i}", content_hash=f"{i:032x}", size=i, mtime_ns=0, modality=kind)
            for i, kind in zip(writer.allocate(8), kinds, strict=True)
        ]
        writer.commit(rows, np.repeat(clustered(1, 1), 8, axis=0))
        writer.set_sources([SourceEntry(uri=kind, modality=kind) for kind in ("image", "text")], base="")
    index = SearchIndex(Snapshot(tmp_path / "i"), encoder)
    expected: list[tuple[Any, set[int]]] = [("images", {0, 2, 4, 6}), ("texts", {1, 3, 5, 7}), (None, {0, 2, 4, 6})]
    for find, ids in expected:
        [group] = find_duplicates(index, find=find)
        assert {group.best["id"], *(row["id"] for row in group.others)} == ids
    assert group.best["id"] == 6  # the largest file where pictures have no size
    grouped = index.query(like=0, find="texts", group_duplicates=0.99).hits
    assert [(hit.id, [each.id for each in hit.duplicates or ()]) for hit in grouped] == [(1, [3, 5, 7])]


def test_what_cannot_be_found_is_refused(tmp_path: Path) -> None:
    index = mixed(tmp_path, ["image"])
    with pytest.raises(QueryError, match=r"The index .*\.llm2clip holds no texts"):
        index.query("dusk", find="texts")
    with pytest.raises(QueryError, match="A query finds images or texts, not 'videos'"):
        index.query("dusk", find="videos")  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="The results of one file"):
        index.query("dusk", per_file=0)
    with pytest.raises(QueryError, match="holds no texts"):
        find_duplicates(index, find="texts")


def test_many_parts_of_one_file_are_passed_over(tmp_path: Path) -> None:
    """More than the first search finds."""
    index = mixed(tmp_path, ["image"] * 300 + ["image"] * 2, parts=300)
    assert {hit.file for hit in index.query(like=0, k=2, per_file=1).hits} == {f"{tmp_path}/0.tar", f"{tmp_path}/1.tar"}


@given(seed=st.integers(0, 9), captions=st.integers(1, 3), k=st.sampled_from([1, 5, 10]))
@settings(max_examples=15, deadline=None)
def test_text_retrieval_is_that_of_the_metric(
    tmp_path_factory: pytest.TempPathFactory, seed: int, captions: int, k: int
) -> None:
    """Images find their captions in an index that holds the images too, as `retrieval_ranks` counts them."""
    images, texts = clustered(seed, 30), clustered(seed + 100, 30 * captions)
    image_of = np.arange(30 * captions) % 30
    stored = texts.astype(np.float16).astype(np.float32)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    expected = retrieval_ranks(images, stored, image_of).recalls()[f"text_retrieval_recall@{k}"]
    encoder, folder = ColourEncoder(), tmp_path_factory.mktemp("recall")
    with Writer.open(folder, model=encoder.identity, dim=encoder.dim) as writer:
        kinds = [*["image"] * 30, *["text"] * len(texts)]
        rows = [
            Row(id=i, path=str(i), content_hash=str(i), size=1, mtime_ns=0, modality=kind)
            for i, kind in zip(writer.allocate(len(kinds)), kinds, strict=True)
        ]
        writer.commit(rows, np.concatenate([images, texts]))
        writer.set_sources([SourceEntry(uri=kind, modality=kind) for kind in ("image", "text")], base="")
    index = SearchIndex(Snapshot(folder), encoder)
    _, ids = index.search(images, k=k, allowed=index.matches(None, "texts"))
    found = (image_of[ids - 30] == np.arange(30)[:, None]).any(axis=1)
    assert np.float32(found.sum()) / np.float32(30) == expected
