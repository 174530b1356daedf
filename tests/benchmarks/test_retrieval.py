"""Complete retrieval runs on a small data set, their result files, and what a model's card says about training data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.benchmarks.datasets.registry import find_dataset
from llm2clip_search.benchmarks.results import read_results, write_results
from llm2clip_search.benchmarks.retrieval import measure_retrieval, seen_in_training
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import NEVER
from tests.support.encoders import ColourEncoder
from tests.support.images import photograph


@pytest.fixture
def dataset(photographs: Path) -> RetrievalSet:
    """Twelve images, the last without captions; captions in two languages, in another order than the images."""
    files = ImageFiles.scan(photographs.parent, ["images"])
    names = list(files)
    pairs = [(names[n], f"{n} {c}") for n in (5, 2, 0, 1, 4, 3, 10, 8, 9, 7, 6) for c in "YZ"]
    return RetrievalSet(
        name="toy",
        split="test",
        images=files,
        captions={lang: Captions.of(pairs) for lang in ("a", "b")},
        notes=("Two captions an image.",),
    )


@pytest.fixture
def seeing(colours: ColourEncoder, dataset: RetrievalSet, monkeypatch: pytest.MonkeyPatch) -> ColourEncoder:
    """An encoder that maps a caption to the vector of its image."""
    from llm2clip_search.benchmarks.embedding import embed_images

    pictures = embed_images(colours, dataset.images, cache=None)
    colours.embedded = 0
    monkeypatch.setattr(colours, "encode_texts", lambda texts: pictures[[int(text.split()[0]) for text in texts]])
    return colours


def test_captions_are_mapped_by_id(dataset: RetrievalSet, seeing: ColourEncoder) -> None:
    results = list(measure_retrieval(seeing, dataset))
    assert [result.language for result in results] == ["a", "b"]
    for result in results:
        assert (result.images, result.captions) == (12, 22)
        assert list(result.metrics) == [f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 5, 10)]
        assert {result.metrics[f"image_retrieval_recall@{k}"] for k in (1, 5, 10)} == {1.0}
        # The picture without a caption is missed, and counts.
        assert {result.metrics[f"text_retrieval_recall@{k}"] for k in (1, 5, 10)} == {float(np.float32(11 / 12))}
        assert set(result.intervals) == set(result.metrics)
        assert all(low <= result.metrics[key] <= high for key, (low, high) in result.intervals.items())
        assert result.ranks["text_retrieval"].count(-1) == 1
        assert len(result.ranks["image_of"]) == len(result.ranks["caption_tokens"]) == 22
        assert tuple(result.notes) == ("Two captions an image.",)
    assert seeing.embedded == 12, "images are embedded once for all languages"


def test_folds_are_measured_and_inapplicable_judgments_are_noted(dataset: RetrievalSet, seeing: ColourEncoder) -> None:
    result = next(measure_retrieval(seeing, replace(dataset, folds=2, judged=True)))
    assert result.measures["image_retrieval_1k_recall@1"] == 1.0
    assert not [key for key in result.measures if "eccv" in key]
    assert result.notes[-1].startswith(
        "ECCV Caption and CxC are left out: 12 of 12 images have ids that are not COCO ids"
    )


def test_a_second_run_embeds_nothing(dataset: RetrievalSet, seeing: ColourEncoder, tmp_path: Path) -> None:
    first = list(measure_retrieval(seeing, dataset, cache=tmp_path / "c"))
    again = list(measure_retrieval(seeing, dataset, cache=tmp_path / "c"))
    assert seeing.embedded == 12
    assert [r.metrics for r in first] == [r.metrics for r in again]


def test_an_image_is_read_once_to_be_hashed_and_once_to_be_embedded(
    dataset: RetrievalSet, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[str] = []
    original = ImageFiles.read

    def counted(files: ImageFiles, image_id: str) -> bytes:
        read.append(image_id)
        return original(files, image_id)

    monkeypatch.setattr(ImageFiles, "read", counted)
    list(measure_retrieval(colours, dataset, cache=tmp_path / "c"))
    assert sorted(read) == sorted([*dataset.images, *dataset.images])


def test_the_data_digest_tells_sets_apart(dataset: RetrievalSet, seeing: ColourEncoder) -> None:
    shorter = dataset.changed(lambda captions: captions.first(1), "one caption an image")
    (one, _), (other, _) = (list(measure_retrieval(seeing, found)) for found in (dataset, shorter))
    assert one.data != other.data
    assert other.captions == 11
    assert tuple(other.notes) == ("Two captions an image.", "one caption an image")


def test_results_are_read_as_they_were_written(dataset: RetrievalSet, seeing: ColourEncoder, tmp_path: Path) -> None:
    results = list(measure_retrieval(seeing, dataset, trained_on="Toy: all of it"))
    write_results(tmp_path / "r.json", results)
    assert [r.to_dict() for r in read_results(tmp_path / "r.json")] == [
        {**r.to_dict(), "notes": list(r.notes)} for r in results
    ]
    assert max(results[0].ranks["text_retrieval"]) < NEVER


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("", "contains no results"),
        ("{", "is not a file of retrieval results"),
        ("[]", "is not a file of retrieval results"),
        ('{"schema_version": 99}', "schema version 99, but this version reads 1"),
        ('{"schema_version": 1, "colour": 2}', "unknown keys"),
        ('{"schema_version": 1}', "missing"),
    ],
)
def test_a_file_of_another_kind_is_reported(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    with pytest.raises(CorpusError, match=words):
        read_results(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("name", "split", "line", "seen"),
    [
        ("flickr8k", "train", "Flickr8k train split (Hodosh 2013): 6,000 images", True),
        ("flickr8k", "dev", "Flickr8k train split (Hodosh 2013): 6,000 images", False),
        ("flickr8k", "dev", "Flickr8k train and dev splits", True),
        ("flickr8k", "test", "Multi30k captions, without the photographs of Flickr8k's dev and test splits", False),
        ("flickr30k", "test", "Multi30k captions, without the photographs of Flickr8k's dev and test splits", True),
        ("flickr30k", "test", "CC3M", False),
        ("flickr30k", "test", "my-Flickr30kish crawl", False),
    ],
)
def test_what_a_card_says_of_a_split(name: str, split: str, line: str, seen: bool) -> None:
    assert seen_in_training(find_dataset(name), split, ["CC12M", line]) == (line if seen else "")


def test_an_image_that_is_broken_stops_the_run(
    dataset: RetrievalSet, photographs: Path, colours: ColourEncoder
) -> None:
    name = next(iter(dataset.images))
    photograph(0).save(photographs / name)
    (photographs / name).write_bytes((photographs / name).read_bytes()[:100])
    files = ImageFiles.scan(photographs.parent, ["images"])
    with pytest.raises(CorpusError, match="cannot be measured"):
        list(measure_retrieval(colours, RetrievalSet(name="t", split="", images=files, captions=dataset.captions)))
