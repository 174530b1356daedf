"""Recall@k of an encoder on Flickr8k, language by language."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from llm2clip_search.benchmarks.flickr8k import iter_images, read_captions
from llm2clip_search.benchmarks.metrics import retrieval_recalls
from llm2clip_search.encoders import Encoder


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """One language of one data set, keys as CLIP_benchmark writes them."""

    dataset: str
    model: str
    fingerprint: str
    language: str
    metrics: dict[str, float]
    images: int
    captions: int
    seconds: float
    """To embed this language's captions."""
    task: str = "zeroshot_retrieval"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def flickr8k_retrieval(
    encoder: Encoder, root: Path, *, split: str, langs: Sequence[str], joined: int = 0, batch_size: int = 32
) -> Iterator[RetrievalResult]:
    """Recall@1, 5 and 10 both ways, one result a language; images are embedded once.

    With ``joined`` an image has one long caption, made of this many of its own (see `Captions.joined`).

    Raises:
        CorpusError: shards or captions that are not there.
    """
    captions = {lang: read_captions(root, split=split, lang=lang) for lang in langs}
    if joined:
        captions = {lang: found.joined(joined) for lang, found in captions.items()}
    names: list[str] = []

    def pictures() -> Iterator[Image.Image]:
        for name, image in iter_images(root, split=split):
            names.append(name)
            yield image

    images = encoder.encode_images(pictures(), batch_size=batch_size)
    for lang, found in captions.items():
        started = time.perf_counter()
        vectors = encoder.encode_texts(found.texts)
        yield RetrievalResult(
            dataset=f"flickr8k/{split}" + (f", {joined} captions joined" if joined else ""),
            model=encoder.name,
            fingerprint=encoder.fingerprint,
            language=lang,
            metrics=retrieval_recalls(images, vectors, found.rows_in(names)),
            images=len(images),
            captions=len(vectors),
            seconds=time.perf_counter() - started,
        )
