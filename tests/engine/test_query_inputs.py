"""What a query accepts: images in memory, ids of any integer type, one value for several; and what it refuses."""

import copy
import io
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llm2clip_search import (
    Hit,
    ImageError,
    InputError,
    Llm2ClipError,
    Query,
    QueryError,
    Result,
    SearchIndex,
    SearchIndices,
    StoreError,
    Term,
    index_folder,
    open_index,
)
from tests.support.encoders import ColourEncoder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five images and its index."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "images").mkdir()
    for number in range(5):
        colours = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(colours.repeat(40, axis=0).repeat(40, axis=1)).save(folder / "images" / f"{number}.png")
    index_folder(folder / "images", encoder=ColourEncoder(), index=folder / ".llm2clip")
    return folder


@pytest.fixture(scope="module")
def index(project: Path) -> SearchIndex:
    return open_index(project, encoder=ColourEncoder())


def found(result: Result) -> list[tuple[int, float]]:
    return [(hit.id, round(hit.score, 5)) for hit in result.hits]


IMAGES: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "path": lambda path: path,
    "PIL": Image.open,
    "array": lambda path: np.asarray(Image.open(path)),
    "floats": lambda path: np.asarray(Image.open(path)) / 255,
    "bytes": Path.read_bytes,
    "open file": lambda path: io.BytesIO(path.read_bytes()),
    "list": lambda path: [Image.open(path)],
    "generator": lambda path: (each for each in [path]),
    "batch": lambda path: np.asarray(Image.open(path))[None],
}


@pytest.mark.parametrize("form", IMAGES)
def test_an_image_is_the_same_query_in_every_form(index: SearchIndex, project: Path, form: str) -> None:
    path = project / "images" / "3.png"
    expected = found(index.query(image=str(path)))
    assert expected[0][1] == pytest.approx(1.0, abs=1e-3)
    assert found(index.query(image=IMAGES[form](path))) == expected
    assert found(index.query(like=IMAGES[form](path))) == expected
    away = index.query("dusk", unlike=str(path))
    assert found(index.query("dusk", unlike=IMAGES[form](path))) == found(away)


def test_ids_are_integers_of_any_kind(index: SearchIndex) -> None:
    expected = found(index.query(like=3))
    assert expected[0][0] == 3
    one: list[Any] = [np.int64(3), np.uint8(3), "3", "3@1", np.array(3), [3], np.array([3]), (each for each in [3])]
    for form in one:
        assert found(index.query(like=form)) == expected
    both = found(index.query(like=[1, 2]))
    for several in (np.array([1, 2]), torch.tensor([1, 2]), range(1, 3), (np.int32(1), "2")):
        assert found(index.query(like=several)) == both


def test_one_caption_stands_for_itself(index: SearchIndex) -> None:
    expected = found(index.query("dusk", add=["rain"], sub=["snow^0.5"]))
    assert found(index.query("dusk", add="rain", sub=(text for text in ["snow^0.5"]))) == expected
    assert found(index.query(np.array(["dusk"]), add=("rain",), sub=np.array(["snow^0.5"]))) == expected
    assert found(index.query(iter(["dusk", "dawn"]), fuse="max")) == found(index.query(["dusk", "dawn"], fuse="max"))
    scores, ids = index.query_texts("dusk", k=np.int64(2))  # type: ignore[arg-type]
    assert ids.tolist() == [[identifier for identifier, _ in found(index.query("dusk", k=2))]]
    assert index.query_texts(text for text in ["a", "b", "c"])[0].shape == (3, 5)
    assert index.query_texts([])[1].shape == (0, 5)
    assert [found(result) for result in index.query_batch("dusk")] == [found(index.query("dusk"))]
    assert index.search(index.encoder.encode_texts("dusk").tolist())[0][0, :2].tolist() == scores[0].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ["a", "b"]}, "There are 2 captions, but nothing says how to combine them: fuse is mean, max or rank"),
        ({"text": 3}, "not int"),
        ({"text": b"a"}, "decode it first"),
        ({"text": ["a", None], "fuse": "mean"}, "Caption 2 of 2 is not a string but None"),
        ({"text": "a", "fuse": "sum"}, "fused by mean, max, rank, not by 'sum'"),
        ({"text": "a", "add": 3}, "not int"),
        ({"text": "a", "sub": ["b", 1]}, "Caption 2 of 2 is not a string but int"),
        ({"image": 3}, "not int"),
        ({"image": []}, "The query is empty"),
        ({"image": b"hello"}, "the image in memory: not an image"),
        ({"image": np.zeros((3, 8, 8))}, "with colour first"),
        ({"like": 3.0}, r"The id of an image is 3\.0; it must be a whole number"),
        ({"like": True}, "The id of an image is True"),
        ({"like": -1}, "The id of an image is -1; it must be at least 0"),
        ({"like": [None]}, "The id of an image is None"),
        ({"text": "a", "k": 2.0}, r"k is 2\.0; it must be a whole number"),
        ({"text": "a", "k": True}, "k is True; it must be a whole number"),
        ({"text": "a", "k": "3"}, "k is '3'; it must be a whole number"),
        ({"text": "a", "k": np.int64(0)}, "k is 0; it must be at least 1"),
        ({"text": "a", "offset": 1.5}, r"offset is 1\.5; it must be a whole number"),
        ({"text": "a", "where": 3}, "The condition is text, not int"),
        ({"text": "a", "where": ["width > 1"]}, "The condition is text, not list"),
        ({"text": "a", "threshold": float("nan")}, "The threshold is nan; cosines are between -1 and 1"),
        ({"text": "a", "threshold": "0.1"}, "The threshold is '0.1'; cosines"),
        ({"text": "a", "recall": True}, "The recall is True; it must be above 0"),
        ({"text": "a", "diverse": "yes"}, "diverse is 'yes'; it must be True or False"),
        ({"text": "a", "unique": 1}, "unique is 1; it must be True or False"),
        ({"text": "a", "sort": 3}, "The column to sort by is text, not int"),
        ({"text": "a", "group_duplicates": True}, "The cosine of duplicates is True"),
    ],
)
def test_arguments_that_are_refused(index: SearchIndex, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Llm2ClipError, match=message) as caught:
        index.query(**arguments)
    assert isinstance(caught.value, InputError | ImageError)
    assert "\n" not in str(caught.value)


def test_searches_without_metadata_refuse_the_same(index: SearchIndex) -> None:
    for texts, k, message in (
        (["", "a"], 3, "Caption 1 of 2 is empty"),
        (["a", " "], 3, "Caption 2 of 2 is empty"),
        ([None], 3, "is not a string but None"),
        ("a", 0, "k is 0"),
        ("a", True, "k is True"),
        ("a", 2.5, r"k is 2\.5"),
    ):
        with pytest.raises(InputError, match=message):
            index.query_texts(texts, k=k)  # type: ignore[arg-type]


def test_a_query_with_an_image_in_memory_is_a_value(index: SearchIndex, project: Path) -> None:
    """It can be compared, hashed, copied and sent, and does not change with the array that it was made of."""
    content = (project / "images" / "2.png").read_bytes()
    query = Query(terms=[Term(kind="image", value=content)], k=np.int64(3))  # type: ignore[arg-type]
    same = Query(terms=(Term(kind="image", value=bytes(content)),), k=3)
    assert query == same
    assert len({query, same, pickle.loads(pickle.dumps(query)), copy.deepcopy(query)}) == 1
    assert query != Query(terms=(Term(kind="image", value=content, weight=2.0),), k=3)
    assert len(repr(query)) < 400
    assert f"an image of {len(content):,} bytes" in repr(query)
    assert found(index.run(query)) == found(index.query(image=project / "images" / "2.png", k=3))


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"kind": "like", "value": "x"}, "'x' is not the id of an image"),
        ({"kind": "like", "value": 3}, "The value of a term of kind like is text, not int"),
        ({"kind": "text", "value": b"x"}, "The value of a term of kind text is text, not bytes"),
        ({"kind": "image", "value": None}, "The value of a term of kind image is text, not NoneType"),
        ({"kind": "audio", "value": "x"}, "terms of the kinds text, image and like"),
        ({"kind": "text", "value": "x", "weight": "2"}, "The weight of 'x' is 2; it must be a finite number"),
    ],
)
def test_terms_that_cannot_be_searched_for(term: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Query(terms=(Term(**term),))


def test_an_index_is_opened_by_any_path_to_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    monkeypatch.setenv("USERPROFILE", str(project))
    monkeypatch.chdir(project)

    def paths() -> Iterator[Path]:
        yield project

    for folder in (None, ".", project, str(project), ".llm2clip", project / ".llm2clip", "~", ["~/.llm2clip"], paths()):
        opened = open_index(folder, encoder=ColourEncoder())
        assert (type(opened), len(opened)) == (SearchIndex, 5)
    for wrong, message in ((3, "path, not int"), (b".", "path, not bytes"), ([None], "path, not NoneType")):
        with pytest.raises(InputError, match=message):
            open_index(wrong, encoder=ColourEncoder())  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="nowhere holds no index"):
        open_index("~/nowhere", encoder=ColourEncoder())


def test_an_encoder_is_an_object_or_a_name(project: Path, tiny_model: Path, tmp_path: Path) -> None:
    name = f"dir:{tiny_model}"
    summary = index_folder(project / "images", encoder=name, index=tmp_path / "i")
    assert summary.total == 5
    assert open_index(tmp_path / "i", encoder=name).encoder.name == name
    for wrong in (3, ColourEncoder, None):
        with pytest.raises(InputError, match="An encoder is what load_encoder gives, or the name of a model"):
            index_folder(project / "images", encoder=wrong, index=tmp_path / "j")  # type: ignore[arg-type]
    assert not (tmp_path / "j").exists()


def test_a_folder_is_one_path_and_a_pattern_is_one_pattern(project: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="A folder is one path, not list; index several by one call for each"):
        index_folder([project / "images"], encoder=ColourEncoder(), index=tmp_path / "i")  # type: ignore[arg-type]
    some = index_folder(project / "images", encoder=ColourEncoder(), index=tmp_path / "i", exclude="[12].png")
    assert some.total == 3


def answer(index: SearchIndex) -> list[tuple[int, float]]:
    return found(index.query("dusk"))


def test_an_index_can_be_copied_and_sent_to_a_process(index: SearchIndex) -> None:
    expected = answer(index)
    for other in (pickle.loads(pickle.dumps(index)), copy.deepcopy(index)):
        assert other is not index
        assert answer(other) == expected
    several = pickle.loads(pickle.dumps(SearchIndices([index], index.encoder)))
    assert found(several.query("dusk")) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(answer, (index,)) == expected


def test_a_copy_of_an_index_refuses_another_model(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "i"
    index_folder(project / "images", encoder=ColourEncoder(), index=folder)
    sent = pickle.dumps(open_index(folder, encoder=ColourEncoder()))
    shutil.rmtree(folder)
    index_folder(project / "images", encoder=ColourEncoder(dim=8), index=folder)
    with pytest.raises(StoreError, match="colours:8"):
        pickle.loads(sent)


def test_results_show_what_was_found(index: SearchIndex) -> None:
    result = index.query("dusk", k=2)
    first, second = result.hits
    assert repr(result).splitlines()[0] == "Result with 2 hits"
    assert [str(first.path) in line for line in repr(result).splitlines()] == [False, True, False]
    assert "content_hash" not in repr(first)
    odd = Result(hits=[Hit(rank=1, id=1, score=0.5, uri="/a <b>&.png", metadata={})], plans=result.plans)
    assert "/a &lt;b&gt;&amp;.png" in odd._repr_html_()
    assert str(second.path) in result._repr_html_()
    steering = Hit(rank=1, id=1, score=0.5, uri="/\u202egnp\x1b[31m\U000e0001.png", metadata={})
    shown = Result(hits=[steering], plans=result.plans, warnings=["\u202e"])._repr_html_()
    assert "/\\u202egnp\\x1b[31m\\U000e0001.png" in shown
    assert shown.isprintable()
