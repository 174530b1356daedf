"""Recall by the length of the query, since encoders tuned on long captions may lose on short ones.

Two series, of text queries against the whole gallery, where only the query's own image is right:

* ``captions``: the set's captions as they are, by their number of words. Buckets differ in images and in
  what their captions tell, so they compare encoders at a length rather than lengths.
* ``shortened``: every caption cut to its first n content words, so the same images at each length. Articles,
  prepositions and auxiliaries are passed over in the languages of `FUNCTION_WORDS`; in others the first n
  words are taken as they come. A caption of fewer words is kept at what it has.

A query of one word has many right images in any gallery, all but one of which count as wrong here. So no
figure of a short query says how good an encoder is; the difference of two encoders does.

A word is what stands between spaces. Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without;
there two letters count as a word, about a Chinese word's length. That is the same for every encoder, as a
tokenizer's count would not be; tokens are told beside.
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
"""Fewest and most words of a caption in each bucket."""
CUTS = (1, 2, 4, 8, 16)
"""Content words that captions are shortened to; the whole caption follows."""
UNSPACED = frozenset({"zh", "ja", "jp", "th", "lo", "km", "my"})
"""Languages written without spaces; ``jp`` is XTD10's name of Japanese."""

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
"""Words that alone tell nothing of an image, lower case; of Chinese single letters."""


@dataclass(frozen=True, kw_only=True)
class LengthBucket:
    """Queries of one length."""

    series: Literal["captions", "shortened"]
    low: int
    """Fewest words; of ``shortened`` 1."""
    high: int | None
    """Most words; None for no bound."""
    queries: int
    different: int
    """Different texts among them: where it is low, most queries cannot all be answered."""
    tokens: float
    """Mean number by the encoder's own tokenizer, special tokens included."""
    cut: int
    """Queries that are longer than the encoder reads."""
    metrics: Mapping[str, float]
    """``image_retrieval_recall@k``."""

    @property
    def words(self) -> str:
        """``4-7``, ``64+``, ``whole``."""
        if self.high is None:
            return "whole" if self.series == "shortened" else f"{self.low}+"
        return str(self.high) if self.low == self.high or self.series == "shortened" else f"{self.low}-{self.high}"

    def to_dict(self) -> dict[str, Any]:
        """One flat row."""
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
    """Both series, each from short to long; buckets without captions are left out.

    Args:
        image_vectors: float32 ``[n_images, dim]``, unit: the set's images in their order.
        cache: where embeddings are kept; None keeps none.
    """
    captions = dataset.captions[lang]
    image_of = captions.rows_in(list(dataset.images))

    def ranked(texts: Sequence[str]) -> np.ndarray:
        """Of every text the rank of its image; equal texts are embedded once."""
        different, place = np.unique(np.array(texts, dtype=object), return_inverse=True)
        vectors = embed_captions(encoder, different.tolist(), cache=cache, progress=progress)
        return ranks_of_best(vectors[place], image_vectors, image_of, np.arange(len(image_vectors)))

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
    """The words of a text without punctuation around them; see above for languages without spaces."""
    if lang in UNSPACED:
        return _pairs(_letters(text))
    return [word for part in text.split() if (word := _trimmed(part))]


def shortened(text: str, lang: str, count: int) -> str:
    """The first ``count`` content words in their order, or of all words where none is one.

    A text of which nothing is a word stays as it is.
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
    """Without what is neither letter nor digit at either end."""
    ends = [place for place, letter in enumerate(word) if _is_word(letter)]
    return word[ends[0] : ends[-1] + 1] if ends else ""


def _letters(text: str) -> list[str]:
    """Letters and digits, each with the marks that stand on it."""
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
    """Letters, marks and digits of any script."""
    return unicodedata.category(letter)[0] in "LMN"
