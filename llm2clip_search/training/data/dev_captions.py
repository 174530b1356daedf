"""The captions of a dev split."""

from pathlib import Path

import pyarrow as pa

from llm2clip_search.corpora.captions import join_sentences
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import CAPTION_SCHEMA, caption_id, read_caption_table
from llm2clip_search.training.data.recipe import DevSplit


def read_dev_captions(root: Path, split: DevSplit) -> pa.Table:
    """Read the captions that a split is evaluated with: a table with `caption_table.CAPTION_SCHEMA`.

    Args:
        root: the folder that the split's paths are relative to.

    Raises:
        CorpusError: as `caption_table.read_caption_table`, or one of the languages that the split names has no
            captions, or no image with two to be joined.
    """
    captions, _ = read_caption_table(root, [split.captions])
    if split.joined:
        captions = _joined(captions, split.joined)
    missing = set(split.captions.langs) - set(captions["lang"].to_pylist())
    if missing or not len(captions):
        langs = f" in {', '.join(sorted(missing))}" if missing else ""
        what = "image with two captions to be joined" if split.joined else "captions"
        raise CorpusError(f"The dev split {split.name!r} has no {what}{langs}.")
    return captions


def _joined(captions: pa.Table, parts: int) -> pa.Table:
    """The first captions of every image in each language, as one."""
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in captions.to_pylist():
        groups.setdefault((row["image_id"], row["lang"]), []).append(row)
    rows = []
    for members in groups.values():
        if len(members) > 1:
            text = join_sentences([str(row["caption"]) for row in members[:parts]])
            rows.append(members[0] | {"caption": text, "caption_id": caption_id(text), "length": "long"})
    return pa.Table.from_pylist(rows, CAPTION_SCHEMA)
