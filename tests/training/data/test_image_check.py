"""Images that cannot be decoded, in shards and folders: found once, and left out."""

from pathlib import Path

import pytest

from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.training.data.image_check import ImageCheck
from llm2clip_search.training.data.image_set import OwnImageSet
from llm2clip_search.training.runtime.distributed import World
from tests.support.corpus import jpeg, write_tar


class Seen:
    """Counts the images that were looked at."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, what: str, done: int, total: int, figures: object) -> None:
        self.count += what == "looking at images"


def check(out: Path, files: ImageFiles) -> tuple[dict[str, str], int]:
    """What an image check finds, and how many images it looked at."""
    seen = Seen()
    found = ImageCheck(out, World(), seen)(files, list(files))
    return dict(found), seen.count


def shard(path: Path, *, whole: int = 3) -> ImageFiles:
    broken = {"cut.jpg": jpeg(8)[:300], "empty.jpg": b"", "text.jpg": b"no image"}
    write_tar(path, {f"{number}.jpg": jpeg(number) for number in range(whole)} | broken)
    return ImageFiles.scan(path.parent, [path.name])


def test_broken_images_are_found_with_their_reasons(tmp_path: Path) -> None:
    found, looked = check(tmp_path, shard(tmp_path / "a.tar"))
    assert list(found) == ["cut.jpg", "empty.jpg", "text.jpg"]
    assert all(found.values())
    assert looked == 6


def test_images_are_looked_at_once_unless_they_change(tmp_path: Path) -> None:
    files = shard(tmp_path / "a.tar")
    first, _ = check(tmp_path, files)
    assert check(tmp_path, files) == (first, 0)
    assert check(tmp_path, shard(tmp_path / "a.tar", whole=4)) == (first, 7)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_record_is_made_again(text: str, tmp_path: Path) -> None:
    files = shard(tmp_path / "a.tar")
    first, _ = check(tmp_path, files)
    (tmp_path / "images_checked.json").write_text(text)
    assert check(tmp_path, files) == (first, 6)


def test_own_data_was_looked_at_when_it_was_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"split": ["train"], "image_id": ["x"], "uri": ["nowhere.jpg"], "version": [""]}
    pq.write_table(pa.table(table), tmp_path / "images.parquet")
    assert ImageCheck(tmp_path, World(), Seen())(OwnImageSet(tmp_path / "images.parquet", "train"), ["x"]) == {}
