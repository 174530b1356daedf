"""Own data in the layouts that users have: the same images and captions in each."""

from collections.abc import Mapping
from pathlib import Path

from tests.support.corpus import jpeg, write_csv, write_tar

CAPTIONS = {n: [f"thing {n} on a table", f"a picture of thing {n}"][: 1 + n % 2] for n in range(12)}
"""By image."""


def folder_with_texts(folder: Path, captions: Mapping[int, list[str]] = CAPTIONS, *, first: int = 0) -> Path:
    """Images with a text file beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, texts in captions.items():
        (folder / f"photo-{number:02}.jpg").write_bytes(jpeg(first + number))
        (folder / f"photo-{number:02}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


def folder_and_table(folder: Path, table: Path) -> Path:
    """Images in subfolders, and a table with a row for each caption."""
    rows = []
    for number, texts in CAPTIONS.items():
        name = f"{number % 3}/{number}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))
        rows += [{"file_name": name, "caption": text, "split": "train"} for text in reversed(texts)]
    rows.append({"file_name": "0/0.jpg", "caption": "of another split", "split": "test"})
    return write_csv(table, rows[::-1])


def table_of_paths(table: Path, folder: Path) -> Path:
    """A table that names images, several rows for each."""
    folder_with_texts(folder)
    names = {n: (folder / f"photo-{n:02}.jpg").relative_to(table.parent).as_posix() for n in CAPTIONS}
    for text in folder.glob("*.txt"):
        text.unlink()
    return write_csv(table, [{"path": names[n], "text": text} for n, texts in CAPTIONS.items() for text in texts])


def shard(path: Path) -> Path:
    """A webdataset shard with captions as JSON."""
    import json

    members = {f"{n:04}.jpg": jpeg(n) for n in CAPTIONS}
    members |= {f"{n:04}.json": json.dumps({"captions": texts}).encode() for n, texts in CAPTIONS.items()}
    return write_tar(path, dict(sorted(members.items())))


def parquet(path: Path) -> Path:
    """A data set with the bytes of images, and a list of captions for each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": jpeg(n), "path": None} for n in CAPTIONS]
    pq.write_table(pa.table({"image": images, "captions": list(CAPTIONS.values())}), path)
    return path
