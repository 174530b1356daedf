"""Captions per second beside a plain loop: ``python -m llm2clip_search.benchmarks.perf.captions TABLE...``.

The loop takes 32 captions at a time, in the order in which they come, and pads them to the longest. It runs the tower
that this program runs, and that of PyTorch in float32. All embed the same captions in turns, and their vectors have to
agree.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from llm2clip_search.base.vectors import unit
from llm2clip_search.benchmarks.perf.timing import seconds_of
from llm2clip_search.corpora.files import files_of
from llm2clip_search.corpora.table_formats import open_table
from llm2clip_search.encoders.registry import DEFAULT_MODEL, fetch_model
from llm2clip_search.encoders.tower_encoder import TowerEncoder
from llm2clip_search.encoders.towers import Tower, load_tower
from llm2clip_search.errors import CorpusError

LOOP_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class CaptionSpeed:
    """One way of embedding the captions."""

    way: str
    captions: int
    tokens: int
    """Mean number of a caption."""
    longest: int
    """Most tokens of a caption, at most what the tower reads."""
    per_second: float
    """Captions, the median over the rounds; tokenization is part of it."""
    lowest: float
    highest: float
    min_cosine: float
    """Lowest cosine of a caption's vector with that of this program."""


def read_captions(tables: Sequence[Path], *, most: int, seed: int = 0) -> list[str]:
    """Captions of the columns ``caption`` of some tables, drawn at random, all tables together.

    Raises:
        CorpusError: a table cannot be read, has no such column, or there are no captions.
    """
    found: list[str] = []
    for path in tables:
        for rows in open_table(files_of(str(path)), str(path)).rows(["caption"]):
            if "caption" not in rows.batch.schema.names:
                raise CorpusError(f"{path} has no column 'caption'.")
            found += [each for each in rows.batch.column("caption").to_pylist() if each]
    if not found:
        raise CorpusError("There are no captions in these tables.")
    chosen = np.random.default_rng(seed).permutation(len(found))[:most]
    return [found[row] for row in chosen]


def measure_captions(name: str, captions: Sequence[str], *, rounds: int, device: str = "cpu") -> Iterator[CaptionSpeed]:
    """Embed captions in each way, in turns, ``rounds`` times."""
    model = fetch_model(name)
    encoder, tokenizer = TowerEncoder(model, device=device), model.tokenizer()

    def loop(tower: Tower) -> Callable[[], np.ndarray]:
        batches = range(0, len(captions), LOOP_BATCH)
        return lambda: np.concatenate(
            [unit(tower(tokenizer(captions[start : start + LOOP_BATCH])._asdict())) for start in batches]
        )

    ways: dict[str, Callable[[], np.ndarray]] = {
        "this program": lambda: encoder.encode_texts(captions),
        "loop": loop(load_tower(model, "text", runtime="auto", device=device)),
        "loop in PyTorch": loop(load_tower(model, "text", runtime="torch", device=device)),
    }
    vectors = {way: embed() for way, embed in ways.items()}  # loads and warms up
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, embed in ways.items():
            taken[way].append(seconds_of(embed))
    lengths = np.minimum(tokenizer.count(captions), encoder.max_tokens)
    for way, seconds in taken.items():
        yield CaptionSpeed(
            way=way,
            captions=len(captions),
            tokens=round(float(lengths.mean())),
            longest=int(lengths.max()),
            per_second=len(captions) / statistics.median(seconds),
            lowest=len(captions) / max(seconds),
            highest=len(captions) / min(seconds),
            min_cosine=float((vectors[way] * vectors["this program"]).sum(axis=1).min()),
        )


def main() -> None:
    """Measure and write a line of JSON for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", type=Path, nargs="+", help="CSV, JSON lines or Parquet with a column caption")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--most", type=int, default=1000, help="captions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="one of torch's device names")
    given = parser.parse_args()
    captions = read_captions(given.tables, most=given.most)
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as out:
        for speed in measure_captions(given.model, captions, rounds=given.rounds, device=given.device):
            out.write(json.dumps(asdict(speed)) + "\n")


if __name__ == "__main__":
    main()
