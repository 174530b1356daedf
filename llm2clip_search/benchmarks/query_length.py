"""Recall by query length, because encoders tuned on long captions may get worse on short ones.

Two series of text queries against the whole gallery; only the query's own image counts as relevant:

* ``captions``: the data set's captions unchanged, grouped by number of words. Groups differ in images and in content,
  so they compare encoders at one length, not lengths with each other.
* ``shortened``: every caption reduced to its first n content words, so that all lengths have the same images. For the
  languages of `FUNCTION_WORDS`, articles, prepositions and auxiliaries are skipped; for other languages the first n
  words are used. A caption with fewer words keeps all it has.

A query of one word matches many images of any gallery, and all but one count as wrong here. So the recall of short
queries does not say how good an encoder is in itself; the difference between two encoders does.

Words are separated by spaces. Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without spaces; there, two
characters count as a word, about the length of a Chinese word. Unlike token counts, this is the same for all encoders;
token counts are reported in addition.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.benchmarks.datasets.base import RetrievalSet
from llm2clip_search.benchmarks.embedding import embed_captions
from llm2clip_search.encoders import Encoder
from llm2clip_search.evaluation.metrics import KS, ranks_of_best

BUCKETS = ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, None))
"""Minimum and maximum number of words per bucket."""
CUTS = (1, 2, 4, 8, 16)
"""Numbers of content words to shorten captions to; the unchanged caption comes last."""
UNSPACED = frozenset({"zh", "ja", "jp", "th", "lo", "km", "my"})
"""Languages written without spaces; ``jp`` is XTD10's code for Japanese."""

FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    lang: frozenset(words.split())
    for lang, words in {
        "en": "a an the this that these those some and or but as while of in on at to into onto from with without by"
        " for over under up down out off near through along across around behind beside between against before after"
        " during towards toward is are was were be been being am do does did has have had can there it its he she his"
        " her him they their them who which what where when one another",
        "de": "ein eine einer eines einem einen der die das des dem den dieser diese dieses und oder aber als während"
        " in im ins an am ans auf aus bei beim mit ohne von vom vor zu zum zur über unter um durch für gegen hinter"
        " neben zwischen entlang nach ist sind war waren wird werden hat haben kann es er sie sein seine seinen seinem"
        " seiner ihr ihre ihren ihrem ihrer sich welche welcher etwas",
        "fr": "un une des le la les du de au aux ce cet cette ces et ou mais à en dans sur sous avec sans par pour"
        " vers devant derrière entre contre chez près pendant est sont était être a ont il elle ils elles son sa ses"
        " leur leurs se qui que qu dont où on y",
        "cs": "a i nebo ale v ve na do z ze s se si k ke o u po pod nad před za mezi při přes od pro bez kolem podél"
        " vedle je jsou byl byla bylo být má mají to ten ta tato tento který která které kteří jeho její jejich svůj"
        " svou svým",
        "es": "un una unos unas el la los las lo de del al y o pero a en con sin por para sobre bajo entre hacia desde"
        " hasta tras ante contra durante es son está están era ser hay ha han que quien donde se su sus él ella ellos",
        "zh": "的 了 着 在 和 与 是 有 一 个 只 位 名 条 群 正 把 被 从 向 上 中 里",
    }.items()
}
"""Words that say nothing about an image by themselves, in lower case; single characters for Chinese."""


@dataclass(frozen=True, kw_only=True)
class LengthBucket:
    """Results for queries of one length."""

    series: Literal["captions", "shortened"]
    low: int
    """Minimum number of words; 1 for ``shortened``."""
    high: int | None
    """Maximum number of words; None if unbounded."""
    queries: int
    different: int
    """Number of distinct texts; if it is low, many queries have the same text and cannot all be hits."""
    tokens: float
    """Mean number of tokens by the encoder's tokenizer, including special tokens."""
    cut: int
    """Number of queries that are longer than the encoder's limit and are truncated."""
    metrics: Mapping[str, float]
    """``image_retrieval_recall@k`` in [0, 1]."""

    @property
    def words(self) -> str:
        """Label of the length: ``4-7``, ``64+``, ``whole``."""
        if self.high is None:
            return "whole" if self.series == "shortened" else f"{self.low}+"
        return str(self.high) if self.low == self.high or self.series == "shortened" else f"{self.low}-{self.high}"

    def to_dict(self) -> dict[str, Any]:
        """One flat row for JSON."""
        row = asdict(self)
        metrics = row.pop("metrics")
        return {**row, "words": self.words, **metrics}


def recall_by_length(
    encoder: Encoder,
    dataset: RetrievalSet,
    lang: str,
    image_vectors: np.ndarray,
    *,
    cache: Path | None = None,
    progress: Progress = no_progress,
) -> list[LengthBucket]:
    """Measure both series, each from short to long; buckets without captions are left out.

    Args:
        image_vectors: float32 ``[n_images, dim]``, L2-normalised: the images of the data set in their order.
        cache: folder of cached embeddings; None to cache nothing.
    """
    captions = dataset.captions[lang]
    image_of = captions.rows_in(list(dataset.images))

    def ranked(texts: Sequence[str]) -> np.ndarray:
        """Rank of the image of each text; equal texts are embedded once."""
        different, row_of = np.unique(np.array(texts, dtype=object), return_inverse=True)
        vectors = embed_captions(encoder, different.tolist(), cache=cache, progress=progress)
        return ranks_of_best(vectors[row_of], image_vectors, image_of, np.arange(len(image_vectors)))

    def bucket(
        series: Literal["captions", "shortened"], low: int, high: int | None, texts: Sequence[str], ranks: np.ndarray
    ) -> LengthBucket:
        tokens = np.array(encoder.count_tokens(texts))
        return LengthBucket(
            series=series,
            low=low,
            high=high,
            queries=len(texts),
            different=len(set(texts)),
            tokens=float(tokens.mean()),
            cut=int((tokens > encoder.max_tokens).sum()),
            metrics={f"image_retrieval_recall@{k}": float((ranks < k).mean()) for k in KS},
        )

    whole = ranked(captions.texts)
    lengths = np.array([len(words_of(text, lang)) for text in captions.texts])
    out = []
    for low, high in BUCKETS:
        rows = np.flatnonzero((lengths >= low) & (lengths <= (high or lengths.max())))
        if len(rows):
            out.append(bucket("captions", low, high, [captions.texts[row] for row in rows], whole[rows]))
    for count in CUTS:
        texts = [shortened(text, lang, count) for text in captions.texts]
        out.append(bucket("shortened", 1, count, texts, ranked(texts)))
    return [*out, bucket("shortened", 1, None, captions.texts, whole)]


def words_of(text: str, lang: str) -> list[str]:
    """The words of a text without surrounding punctuation; see above for languages without spaces."""
    if lang in UNSPACED:
        return _pairs(_letters(text))
    return [word for part in text.split() if (word := _trimmed(part))]


def shortened(text: str, lang: str, count: int) -> str:
    """The first ``count`` content words, or the first words if none is a content word.

    A text without words is returned unchanged.
    """
    function_words = FUNCTION_WORDS.get(lang, frozenset())
    if lang in UNSPACED:
        letters = _letters(text)
        content = [letter for letter in letters if letter not in function_words]
        return "".join(_pairs(content or letters)[:count]) or text
    words = words_of(text, lang)
    content = [word for word in words if word.lower() not in function_words]
    return " ".join((content or words)[:count]) or text


def _trimmed(word: str) -> str:
    """Remove characters other than letters and digits at both ends."""
    ends = [index for index, letter in enumerate(word) if _is_word(letter)]
    return word[ends[0] : ends[-1] + 1] if ends else ""


def _letters(text: str) -> list[str]:
    """Letters and digits, each with its combining marks."""
    out: list[str] = []
    for letter in text:
        if unicodedata.category(letter).startswith("M") and out:
            out[-1] += letter
        elif _is_word(letter):
            out.append(letter)
    return out


def _pairs(letters: Sequence[str]) -> list[str]:
    return ["".join(letters[start : start + 2]) for start in range(0, len(letters), 2)]


def _is_word(letter: str) -> bool:
    """Whether a character is a letter, a mark or a digit of any script."""
    return unicodedata.category(letter)[0] in "LMN"
