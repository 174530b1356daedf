"""Whole benchmark runs on a data set made here, and what is said of one that is broken."""

import csv
import gzip
import io
import tarfile
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.flickr8k import read_captions
from llm2clip_search.benchmarks.retrieval import flickr8k_retrieval
from llm2clip_search.benchmarks.speed import measure_speed
from llm2clip_search.errors import CorpusError
from tests.conftest import ColourEncoder, photograph


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two shards of three pictures; captions in two languages, not in the pictures' order."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"flickr8k-dev-00{shard}.tar", "w") as tar:
            for number in range(3):
                data = io.BytesIO()
                photograph(3 * shard + number).save(data, "JPEG")
                member = tarfile.TarInfo(f"{3 * shard + number}.jpg")
                member.size = len(data.getvalue())
                tar.addfile(member, io.BytesIO(data.getvalue()))
    rows = [
        [f"{n}.jpg", "dev", lang, f"{lang} {n} {c}", "x"] for n in (5, 2, 0, 1, 4, 3) for lang in "ab" for c in "yz"
    ]
    write(tmp_path, [*rows, ["9.jpg", "test", "a", "another split", "x"], ["1.jpg", "dev", "a", "  ", "x"]])
    return tmp_path


def write(root: Path, rows: list[list[str]]) -> None:
    with gzip.open(root / "captions.csv.gz", "wt", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image_id", "split", "lang", "caption", "origin"], *rows])


def test_captions_are_mapped_by_id(dataset: Path, colours: ColourEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that gives a caption its picture's vector scores 1.0 everywhere; images are embedded once."""
    pictures = colours.encode_images([photograph(number) for number in range(6)])
    colours.embedded = 0
    monkeypatch.setattr(colours, "encode_texts", lambda texts: pictures[[int(text.split()[1]) for text in texts]])
    results = list(flickr8k_retrieval(colours, dataset, split="dev", langs=("a", "b"), batch_size=4))
    assert [result.language for result in results] == ["a", "b"]
    for result in results:
        assert (result.images, result.captions) == (6, 12)
        assert set(result.metrics.values()) == {1.0}
        assert list(result.to_dict()["metrics"]) == [
            f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 5, 10)
        ]
    assert colours.embedded == 6


def test_a_broken_data_set_is_told(dataset: Path, colours: ColourEncoder, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no captions of split 'dev' in language 'c'"):
        read_captions(dataset, split="dev", lang="c")
    with pytest.raises(CorpusError, match=r"holds no flickr8k-test-NNN\.tar"):
        list(flickr8k_retrieval(colours, dataset, split="test", langs=("a",)))
    write(dataset, [["7.jpg", "dev", "a", "a picture that is not there", "x"]])
    with pytest.raises(CorpusError, match=r"1 images have captions but are in no shard, such as 7\.jpg"):
        list(flickr8k_retrieval(colours, dataset, split="dev", langs=("a",)))
    whole = (dataset / "captions.csv.gz").read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"image_id,split\n", gzip.compress(b"image_id,split\n1.jpg,dev\n")):
        (dataset / "captions.csv.gz").write_bytes(damage)
        with pytest.raises(CorpusError, match=r"captions\.csv\.gz"):
            read_captions(dataset, split="dev", lang="a")
    (dataset / "captions.csv.gz").write_bytes(whole)
    (dataset / "flickr8k-dev-000.tar").write_bytes(b"no archive")
    with pytest.raises(CorpusError, match=r"flickr8k-dev-000\.tar"):
        list(flickr8k_retrieval(colours, dataset, split="dev", langs=("a",)))


def test_speed_is_measured_in_rounds(photographs: Path, colours: ColourEncoder) -> None:
    result = measure_speed(colours, photographs, rounds=2, batch_size=4)
    assert (result.images, result.rounds) == (12, 2)
    assert min(result.tower, result.index, result.again, result.caption) > 0.0
    # A batch to warm up, then the tower alone and one index run a round; the second run embeds nothing.
    assert colours.embedded == 4 + 2 * (12 + 12)
    for path in photographs.rglob("*.png"):
        path.unlink()
    with pytest.raises(CorpusError, match="no images in"):
        measure_speed(colours, photographs, rounds=1)
