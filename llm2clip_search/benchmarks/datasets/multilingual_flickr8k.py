"""Flickr8k in five languages: ``captions.csv.gz`` and webdataset shards ``flickr8k-SPLIT-NNN.tar``.

Shards contain ``ID.jpg``; captions are rows of ``image_id, split, lang, caption, origin``.
"""

from collections.abc import Sequence
from pathlib import Path

from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.corpora.tables import table_rows
from llm2clip_search.errors import CorpusError

CAPTION_FILE = "captions.csv.gz"


def read_multilingual_flickr8k(root: Path, split: str, langs: Sequence[str]) -> RetrievalSet:
    """Read a split in the given languages.

    Raises:
        CorpusError: shards or captions are missing or damaged.
    """
    captions = {lang: read_flickr8k_captions(root, split=split, lang=lang) for lang in langs}
    return RetrievalSet(name="flickr8k", split=split, images=read_flickr8k_images(root, split=split), captions=captions)


def read_flickr8k_captions(root: Path, *, split: str, lang: str) -> Captions:
    """Captions of a split in one language, in the order of the file; empty ones are left out.

    Raises:
        CorpusError: the file is missing, lacks a column or has no such captions.
    """
    wanted = ("image_id", "split", "lang", "caption")
    found = [
        (str(row["image_id"]), text)
        for _, row in table_rows(root / CAPTION_FILE, wanted)
        if row["split"] == split and row["lang"] == lang and (text := (row["caption"] or "").strip())
    ]
    if not found:
        raise CorpusError(f"{root / CAPTION_FILE} has no captions of split {split!r} in language {lang!r}.")
    return Captions.of(found)


def read_flickr8k_images(root: Path, *, split: str) -> ImageFiles:
    """Images of a split, by the ids that the captions use.

    Raises:
        CorpusError: there is no shard of that split, or a shard is damaged.
    """
    pattern = f"flickr8k-{split}-*.tar"
    if not any(root.glob(pattern)):
        raise CorpusError(f"{root} does not contain flickr8k-{split}-NNN.tar.")
    return ImageFiles.scan(root, [pattern])
