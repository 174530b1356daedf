"""Writes small corpora in the formats that users have."""

import csv
import gzip
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa

from llm2clip_search.training.data.caption_table import CAPTION_SCHEMA, caption_id, photo_key
from tests.support.images import photograph


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a CSV or TSV file, gzipped if its suffix is ``.gz``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name.removesuffix(".gz")
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tar(
    path: Path, members: Mapping[str, bytes] | Iterable[tuple[str, bytes]], *, layout: int = tarfile.GNU_FORMAT
) -> Path:
    """Write a webdataset shard, compressed if its suffix is ``.gz``; ``layout`` is tarfile's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    method: Literal["w", "w:gz"] = "w:gz" if path.suffix == ".gz" else "w"
    with tarfile.open(path, method, format=layout, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return path


def jpeg(seed: int) -> bytes:
    """The bytes of an image; every seed gives another one."""
    buffer = io.BytesIO()
    photograph(seed).save(buffer, "JPEG")
    return buffer.getvalue()


def caption_table(rows: Sequence[tuple[str | None, str]], **columns: Sequence[object]) -> pa.Table:
    """A caption table from image ids and captions; ``columns`` override the defaults (English, short, ...)."""
    images, texts = [image for image, _ in rows], [text for _, text in rows]
    values: dict[str, Sequence[object]] = {
        "caption_id": [caption_id(text) for text in texts],
        "image_id": images,
        "photo": [photo_key(image) if image else f"text:{row}" for row, image in enumerate(images)],
        "caption": texts,
        "lang": ["en"] * len(rows),
        "length": ["short"] * len(rows),
        "source": [0] * len(rows),
        "negative": [False] * len(rows),
    }
    return pa.table(values | columns, schema=CAPTION_SCHEMA)
