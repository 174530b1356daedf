"""Long captions for data with only short ones, made by joining several captions of an image."""

from dataclasses import dataclass

import pyarrow as pa

from llm2clip_search.corpora.captions import join_sentences
from llm2clip_search.training.data.caption_table import CAPTION_SCHEMA, caption_id
from llm2clip_search.training.runtime.allowed_values import require_values
from llm2clip_search.training.runtime.seeds import generator


@dataclass(frozen=True, kw_only=True)
class LongCaptions:
    """How many long captions to make, and from which short ones."""

    parts: tuple[int, ...] = (5,)
    """For each number, one long caption per image and language, joined from that many short captions or from all if
    there are fewer. Images with a single caption get none."""
    langs: tuple[str, ...] = ("en",)
    """Languages whose captions are joined."""
    seed: int = 0
    """Decides which captions are joined, in which order."""

    def __post_init__(self) -> None:
        require_values(self, {"parts": (all(number >= 2 for number in self.parts), "numbers of at least 2")})


def with_long_captions(captions: pa.Table, config: LongCaptions) -> pa.Table:
    """Append rows of length class ``long`` to a caption table; each joins short captions in random order."""
    groups: dict[tuple[str, str], list[int]] = {}
    langs, lengths = captions["lang"].to_pylist(), captions["length"].to_pylist()
    for row, (image, lang) in enumerate(zip(captions["image_id"].to_pylist(), langs, strict=True)):
        if lang in config.langs and lengths[row] == "short":
            groups.setdefault((image, lang), []).append(row)
    texts = captions["caption"].to_pylist()
    rows, made = [], []
    for number, members in enumerate(groups.values()):
        if len(members) < 2:
            continue
        draw = generator(config.seed, number, "long captions")
        for parts in config.parts:
            chosen = draw.permutation(members)[:parts]
            rows.append(members[0])
            made.append(join_sentences([texts[row] for row in chosen]))
    long = captions.take(pa.array(rows, type=pa.int64()))
    changed = {
        "caption": pa.array(made, type=pa.string()),
        "caption_id": pa.array([caption_id(text) for text in made], type=pa.int64()),
        "length": pa.array(["long"] * len(made), type=pa.string()),
    }
    columns = [changed.get(name, long[name]) for name in CAPTION_SCHEMA.names]
    return pa.concat_tables([captions, pa.table(columns, schema=CAPTION_SCHEMA)])
