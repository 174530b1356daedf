"""Small files that unpack to much, and files that change between listing and reading: rows or failures."""

import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from llm2clip_search.corpora import FolderCorpus, Item
from llm2clip_search.indexers import IndexConfig, index_corpus
from llm2clip_search.store import Snapshot
from tests.support.encoders import PixelEncoder
from tests.support.images import photograph, png
from tests.support.odd_files import chunk

UNPACKED = 256 << 20
"""Bytes that the metadata of a bomb unpack to."""
_INDEX = """
import json, sys
from llm2clip_search.base.memory import peak_bytes
from llm2clip_search.indexers import IndexConfig, index_folder
from tests.support.encoders import PixelEncoder
before = peak_bytes()
config = IndexConfig(threads=2, isolate=sys.argv[3] == "isolate")
summary = index_folder(sys.argv[1], index=sys.argv[2], encoder=PixelEncoder(), config=config)
print(json.dumps({**summary.to_dict(), "grown": peak_bytes() - before}))
"""


def gif(frames: int) -> bytes:
    """A GIF of equal frames."""
    out = io.BytesIO()
    photograph(1, (8, 8)).quantize(4).save(out, "GIF")
    data = out.getvalue()
    start = data.index(b",\0\0\0\0")  # its image descriptor
    return data[:start] + data[start:-1] * frames + b";"


def bombs() -> dict[str, bytes]:
    """PNGs of a few hundred kilobytes whose metadata unpack to `UNPACKED` bytes, by name."""
    squeezer = zlib.compressobj(1)
    block = b" " * (1 << 20)
    packed = b"".join([*(squeezer.compress(block) for _ in range(UNPACKED >> 20)), squeezer.flush()])
    chunks = {
        "ztxt": chunk(b"zTXt", b"Comment\0\0" + packed),
        "xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed),
        "iccp": chunk(b"iCCP", b"profile\0\0" + packed),
    }
    plain = png(1)
    after_header = 8 + 25
    return {f"{name}.png": plain[:after_header] + each + plain[after_header:] for name, each in chunks.items()}


@pytest.mark.parametrize("isolate", ["isolate", "together"])
def test_many_frames_and_metadata_that_unpack_to_much(tmp_path: Path, isolate: str) -> None:
    folder, index = tmp_path / "files", tmp_path / "index"
    folder.mkdir()
    for name, data in {**bombs(), "frames.gif": gif(60_000), "good.png": png(2)}.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", _INDEX, str(folder), str(index), isolate]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    rows = {Path(path).name for path in Snapshot(index).metadata().column("path").to_pylist()}
    failed = {Path(each["path"]).name for each in summary["failures"]}
    assert rows | failed == {"ztxt.png", "xmp.png", "iccp.png", "frames.gif", "good.png"}
    assert {"frames.gif", "good.png"} <= rows
    assert summary["grown"] < UNPACKED


@pytest.mark.parametrize("isolate", [True, False])
def test_files_that_vanish_or_change_after_they_were_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolate: bool
) -> None:
    folder, index = tmp_path / "files", tmp_path / "index"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(png(number))
    read = FolderCorpus.open

    def changed_meanwhile(self: FolderCorpus, item: Item) -> bytes:
        if Path(item.uri).name == "1.png":
            Path(item.uri).unlink()
        if Path(item.uri).name == "2.png":
            Path(item.uri).write_bytes(png(20))
        return read(self, item)

    monkeypatch.setattr(FolderCorpus, "open", changed_meanwhile)
    config = IndexConfig(isolate=isolate, threads=1)
    summary = index_corpus(FolderCorpus(folder), encoder=PixelEncoder(), index=index, config=config)
    assert (summary.total, [Path(each["path"]).name for each in summary.failures]) == (3, ["1.png"])
    monkeypatch.undo()
    again = index_corpus(FolderCorpus(folder), encoder=PixelEncoder(), index=index, config=config)
    assert (again.total, again.failures) == (3, [])
    index_corpus(FolderCorpus(folder), encoder=PixelEncoder(), index=tmp_path / "anew", config=config)
    hashes, anew = (
        Snapshot(each).metadata().select(["path", "content_hash"]).sort_by("path")
        for each in (index, tmp_path / "anew")
    )
    assert hashes == anew
