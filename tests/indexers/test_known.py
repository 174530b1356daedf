"""What makes an item unchanged, by what its corpus knows of it."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm2clip_search import Corpus, CorpusError, Item, index_corpus
from llm2clip_search.indexers import IndexConfig
from llm2clip_search.indexers import plan as plan_module
from llm2clip_search.indexers.known import Embedded
from llm2clip_search.store import Snapshot
from tests.support.encoders import ColourEncoder
from tests.support.images import png


class Bucket(Corpus):
    """Images by name with a version each, as an object store has them; counts what is read."""

    uri = "bucket://photos"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.read: list[str] = []
        self.listed = 0

    def items(self) -> Iterator[Item]:
        self.listed += 1
        for name, (_, version) in sorted(self.objects.items()):
            yield Item(uri=f"{self.uri}/{name}", version=version)

    def open(self, item: Item) -> bytes:
        self.read.append(item.uri.rpartition("/")[2])
        return self.objects[self.read[-1]][0]


@pytest.fixture
def bucket() -> Bucket:
    made = Bucket()
    made.objects = {f"{number}.png": (png(number), f"v{number}") for number in range(6)}
    return made


def update(bucket: Bucket, colours: ColourEncoder, index: Path) -> tuple[int, int, int, int]:
    """Indexed, reused, unchanged and removed items of a run."""
    bucket.read.clear()
    done = index_corpus(bucket, encoder=colours, index=index)
    return done.indexed, done.reused, done.unchanged, done.removed


def test_a_version_decides_without_reading(bucket: Bucket, colours: ColourEncoder, tmp_path: Path) -> None:
    assert update(bucket, colours, tmp_path / "i") == (6, 0, 0, 0)
    assert update(bucket, colours, tmp_path / "i") == (0, 0, 6, 0)
    assert bucket.read == []
    bucket.objects["2.png"] = (png(99), "v2b")  # changed
    bucket.objects["3.png"] = (bucket.objects["3.png"][0], "v3b")  # written again, the same bytes
    bucket.objects["moved.png"] = bucket.objects.pop("4.png")
    del bucket.objects["5.png"]
    assert update(bucket, colours, tmp_path / "i") == (1, 2, 2, 1)
    assert sorted(bucket.read) == ["2.png", "3.png", "moved.png"]
    assert update(bucket, colours, tmp_path / "i") == (0, 0, 5, 0)
    assert bucket.read == []  # the new version of 3.png was stored with its row
    rows = Snapshot(tmp_path / "i").metadata().to_pylist()
    assert {(row["path"].rpartition("/")[2], row["version"], row["corpus"]) for row in rows} == {
        (name, version, bucket.uri) for name, (_, version) in bucket.objects.items()
    }


def test_a_large_corpus_is_listed_again_and_not_held(
    bucket: Bucket, colours: ColourEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "HELD_ITEMS", 4)
    assert update(bucket, colours, tmp_path / "i") == (6, 0, 0, 0)
    assert bucket.read == [f"{number}.png" for number in range(6)]
    listed = bucket.listed
    bucket.objects = {name: (content, version + "x") for name, (content, version) in bucket.objects.items()}
    assert update(bucket, colours, tmp_path / "i") == (0, 6, 0, 0)
    assert bucket.listed - listed == 3  # is it empty, what has changed, and the items themselves
    assert update(bucket, colours, tmp_path / "i") == (0, 0, 6, 0)


def test_a_corpus_that_vanishes_while_it_is_listed_is_not_forgotten(
    bucket: Bucket, colours: ColourEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk that is unmounted between the first look and the second."""
    update(bucket, colours, tmp_path / "i")
    first = iter([bucket.items(), iter(())])
    monkeypatch.setattr(bucket, "items", lambda: next(first))
    with pytest.raises(CorpusError, match="the index keeps the 6 it knows from there"):
        update(bucket, colours, tmp_path / "i")
    assert Snapshot(tmp_path / "i").manifest.live == 6


def test_copies_do_not_hold_each_other_back(bucket: Bucket, colours: ColourEncoder, tmp_path: Path) -> None:
    """Copies of one image never fill a batch: it is embedded all the same, and a run can be stopped among them."""
    bucket.objects = {f"{number:04d}.png": (png(7), "") for number in range(2000)}

    def stop(task: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        if task == "images" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_corpus(bucket, encoder=colours, index=tmp_path / "i", config=IndexConfig(batch_size=4), progress=stop)
    assert len(bucket.read) < 200
    assert Snapshot(tmp_path / "i").manifest.live == 1
    done = index_corpus(bucket, encoder=colours, index=tmp_path / "i", config=IndexConfig(batch_size=4))
    assert (done.total, colours.embedded) == (2000, 1)


def test_what_a_run_has_embedded_is_found_by_all_threads(tmp_path: Path) -> None:
    """Keys are 64 bits of a content hash, of which half are negative as SQLite has them."""
    hashes = {hashlib.blake2b(b"%d" % number, digest_size=16).hexdigest(): number for number in range(20_000)}
    embedded = Embedded()
    for content, number in hashes.items():
        embedded.add(content, number)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(embedded.find, hashes)) == list(hashes.values())
    assert [embedded.find(content[::-1]) for content in hashes] == [-1] * len(hashes)
    assert (embedded.find("f" * 32), embedded.find("0" * 32)) == (-1, -1)
