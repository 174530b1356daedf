"""Pictures that were made before, in memory and on the disk."""

import multiprocessing
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm2clip_search.server.pictures.cache import FILE, DiskCache, MemoryCache
from llm2clip_search.server.pictures.rendering import Rendered

KIND = "image/webp"


def _picture(size: int) -> Rendered:
    return Rendered(data=bytes(size), media_type=KIND, tag="")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[DiskCache]:
    cache = DiskCache(tmp_path / "pictures", max_bytes=100_000)
    yield cache
    cache.close()


def test_memory_holds_what_was_used_last() -> None:
    memory = MemoryCache[str](max_bytes=100)
    memory.put("a", _picture(40))
    memory.put("b", _picture(40))
    memory.get("a")
    memory.put("c", _picture(40))
    assert [memory.get(key) is not None for key in "abc"] == [True, False, True]
    memory.put("d", _picture(101))
    assert memory.get("d") is None


def test_the_disk_remembers_over_a_restart(cache: DiskCache, tmp_path: Path) -> None:
    cache.put("key", b"data", KIND)
    cache.close()
    assert DiskCache(tmp_path / "pictures", max_bytes=100_000).get("key") == (b"data", KIND)
    assert cache.get("other") is None


def test_the_disk_is_bounded(cache: DiskCache, tmp_path: Path) -> None:
    for number in range(300):
        cache.put(str(number), bytes(1000), KIND)
    held = [number for number in range(300) if cache.get(str(number)) is not None]
    assert held == list(range(held[0], 300)), "the oldest ones are gone"
    assert 80 <= len(held) <= 102
    cache.close()
    assert (tmp_path / "pictures" / FILE).stat().st_size < 300_000


@pytest.mark.parametrize("damage", ["head", "middle", "empty", "folder"])
def test_a_damaged_file_is_made_again(cache: DiskCache, tmp_path: Path, damage: str) -> None:
    for number in range(50):
        cache.put(str(number), bytes(1000), KIND)
    cache.close()
    file = tmp_path / "pictures" / FILE
    data = bytearray(file.read_bytes())
    if damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        start = 0 if damage == "head" else 4096
        data[start : start + 16_384] = b"\xff" * 16_384
        file.write_bytes(b"" if damage == "empty" else data)
    for number in range(50):
        cache.get(str(number))
    cache.put("new", b"data", KIND)
    cache.put("new", b"data", KIND)
    assert cache.get("new") == ((b"data", KIND) if damage != "folder" else None)


def _fill(folder: Path, first: int) -> None:
    cache = DiskCache(folder, max_bytes=10_000_000)
    for number in range(first, first + 100):
        cache.put(str(number), str(number).encode(), KIND)
    cache.close()


def test_several_processes_share_a_file(cache: DiskCache, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_fill, args=(tmp_path / "pictures", 100 * number)) for number in range(2)]
    for each in others:
        each.start()
    for each in others:
        each.join(30)
    assert [cache.get(str(number)) for number in range(200)] == [(str(number).encode(), KIND) for number in range(200)]


def test_only_the_user_may_look(cache: DiskCache, tmp_path: Path) -> None:
    cache.put("key", b"data", KIND)
    assert (tmp_path / "pictures").stat().st_mode & 0o077 == 0
    with sqlite3.connect(tmp_path / "pictures" / FILE) as other:
        assert other.execute("SELECT count(*) FROM pictures").fetchone() == (1,)
