"""Batches of caption pairs for stage 1: two captions each of many photographs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np
import pyarrow as pa
import torch

from llm2clip_search.corpora.captions import join_sentences
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.runtime.seeds import generator

NO_PHOTOGRAPH = -1
"""Photograph number of hard negatives."""


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """Instructions that precede the query's caption, by the kind of pair; positives have none."""

    short_to_long: str = ""
    """For a short query and a long positive."""
    long_to_short: str = ""
    """For a long query and a short positive."""
    across_languages: str = ""
    """For captions in two languages."""
    otherwise: str = ""
    """For all other pairs."""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """``n`` queries, and a gallery of their ``n`` positives in the same order, followed by hard negatives."""

    queries: list[str]
    gallery: list[str]
    instructions: list[str]
    """One per query; empty for none."""
    query_photos: torch.Tensor
    """int64 ``[n]``: the number of each query's photograph."""
    gallery_photos: torch.Tensor
    """int64 ``[m]``, ``m >= n``, likewise; `NO_PHOTOGRAPH` for hard negatives."""
    shared_photos: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By text, all photographs that it describes, for texts that describe more than their row's own."""

    def same_photograph(self) -> torch.Tensor:
        """bool ``[n, m]``: where query and gallery item describe a common photograph, so they are not negatives.

        A caption shared by several photographs describes each of them, so it is not a negative of their other
        captions; those remain negatives of each other.
        """
        shared = self.shared_photos
        same_photograph = self.query_photos[:, None] == self.gallery_photos[None, :]
        queries = {row: shared[text] for row, text in enumerate(self.queries) if text in shared}
        items = {item: self.shared_photos[text] for item, text in enumerate(self.gallery) if text in shared}
        for row, photos in queries.items():
            same_photograph[row] |= torch.isin(self.gallery_photos, torch.tensor(list(photos)))
            for item, others in items.items():
                if not photos.isdisjoint(others):
                    same_photograph[row, item] = True
        for item, photos in items.items():
            same_photograph[:, item] |= torch.isin(self.query_photos, torch.tensor(list(photos)))
        return same_photograph


class CaptionPairSampler:
    """Samples pairs of captions that describe the same photograph.

    A batch has one source, one language for its queries and one for its positives, all drawn by weight. In a batch of
    mixed languages, most negatives could be recognised by their language alone.
    """

    def __init__(
        self,
        captions: pa.Table,
        *,
        source_weights: Sequence[float],
        lang_weights: Mapping[str, float],
        instructions: Instructions,
        joined: float = 0.0,
        seed: int,
    ) -> None:
        """Group the captions (see `caption_table.CAPTION_SCHEMA`) by source and photograph.

        Args:
            joined: probability of a batch whose captions are joined, see `CaptionLLMRecipe.joined`.

        Raises:
            CorpusError: a source with a weight has fewer than two photographs with a pair, or all weights are 0.
        """
        self.seed, self.joined = seed, joined
        self.instructions = instructions
        self.texts: list[str] = captions["caption"].to_pylist()
        self.langs: list[str] = captions["lang"].to_pylist()
        self.lengths: list[str] = captions["length"].to_pylist()
        self.caption_ids = captions["caption_id"].to_numpy()
        photos = captions["photo"].to_pylist()
        names: dict[str, int] = {}
        self.photo_of = np.array([names.setdefault(photo, len(names)) for photo in photos], dtype=np.int64)
        negative = captions["negative"].to_numpy()
        self.photos_of_caption = self._shared(~negative)
        self.sources: list[list[dict[str, np.ndarray]]] = []
        self.without_pair: list[str] = []
        """Photographs that have fewer than two captions in languages with a weight, by source; they are not used."""
        self.candidates: list[dict[tuple[str, str], np.ndarray]] = []
        self.negatives: list[dict[int, np.ndarray]] = []
        source_of = captions["source"].to_numpy()
        for source in range(len(source_weights)):
            rows = np.flatnonzero((source_of == source) & ~negative)
            members = self._photographs(rows)
            photographs = [self._by_lang(each, lang_weights) for each in members]
            has_pair = [sum(map(len, photograph.values())) >= 2 for photograph in photographs]
            self.sources.append(list(compress(photographs, has_pair)))
            self.without_pair += [photos[each[0]] for each, pairs in zip(members, has_pair, strict=True) if not pairs]
            self.candidates.append(_photographs_by_langs(self.sources[-1]))
            others = self._photographs(np.flatnonzero((source_of == source) & negative))
            self.negatives.append({int(self.photo_of[rows[0]]): rows for rows in others})
        for number, (weight, photographs, candidates) in enumerate(
            zip(source_weights, self.sources, self.candidates, strict=True), 1
        ):
            if weight > 0.0 and not candidates:
                several, count = len(source_weights) > 1, len(photographs)
                name = f"Caption source {number} of {len(source_weights)}" if several else "The caption source"
                unused = " A source that stage 1 does not use needs weight 0." if several else ""
                raise CorpusError(
                    f"{name} has no pairs: it has {count} photograph{'s' * (count != 1)} with two different captions in"
                    f" languages of non-zero weight, and at least 2 must have them in the same languages.{unused}"
                )
        weights = np.array(source_weights, dtype=np.float64)
        if not weights.sum() > 0.0:
            raise CorpusError(f"All {len(weights)} caption sources have weight 0, so there are no pairs to learn.")
        self.source_chances = weights / weights.sum()
        self.lang_weights = lang_weights

    def __len__(self) -> int:
        """Number of photographs that have a pair; one of several sources counts once."""
        return sum(map(len, self.sources)) - self.repeated

    @property
    def repeated(self) -> int:
        """How often a photograph that has a pair is in a further source."""
        photos = [
            int(self.photo_of[next(iter(photograph.values()))[0]]) for source in self.sources for photograph in source
        ]
        return len(photos) - len(set(photos))

    def draw(self, step: int, count: int) -> PairBatch:
        """Draw the pairs of a step; they depend only on the seed and the step.

        Args:
            count: photographs to draw from one source; all that have the drawn languages, if there are fewer. For a
                photograph with hard negatives, one of them is added to the gallery.
        """
        draws = generator(self.seed, step, "pairs")
        source = int(draws.choice(len(self.sources), p=self.source_chances))
        query, positive = self._langs(source, draws)
        candidates = self.candidates[source][query, positive]
        chosen = draws.choice(candidates, size=min(count, len(candidates)), replace=False)
        joins = bool(self.joined) and bool(draws.random() < self.joined)
        sides = _halves if joins else _pair
        pairs = [sides(self.sources[source][item], query, positive, draws) for item in chosen]
        photos = torch.from_numpy(self.photo_of[[left[0] for left, _ in pairs]])
        pools = [self.negatives[source][p] for p in photos.tolist() if p in self.negatives[source]]
        negatives = np.array([draws.choice(pool) for pool in pools], dtype=np.int64)
        known = self.photos_of_caption
        singles = [rows[0] for pair in pairs for rows in pair if len(rows) == 1]
        drawn = {self.texts[row]: int(self.caption_ids[row]) for row in (*singles, *negatives)}
        return PairBatch(
            queries=[self._text(left) for left, _ in pairs],
            gallery=[*(self._text(right) for _, right in pairs), *(self.texts[row] for row in negatives)],
            instructions=[self._instruction(left[0], right[0]) for left, right in pairs],
            query_photos=photos,
            gallery_photos=torch.cat([photos, torch.full((len(negatives),), NO_PHOTOGRAPH)]),
            shared_photos={text: known[key] for text, key in drawn.items() if key in known},
        )

    def _text(self, rows: np.ndarray) -> str:
        return self.texts[rows[0]] if len(rows) == 1 else join_sentences([self.texts[row] for row in rows])

    def _photographs(self, rows: np.ndarray) -> list[np.ndarray]:
        """Group rows by photograph, without repeated captions."""
        key = np.stack([self.photo_of[rows], self.caption_ids[rows]], axis=1)
        _, first = np.unique(key, axis=0, return_index=True)
        rows = rows[np.sort(first)]
        order = np.argsort(self.photo_of[rows], kind="stable")
        starts = np.flatnonzero(np.diff(self.photo_of[rows][order])) + 1
        return [rows[part] for part in np.split(order, starts)] if len(rows) else []

    def _shared(self, positive: np.ndarray) -> dict[int, frozenset[int]]:
        """By caption id, the photographs of captions that describe several, or that are some photograph's negative."""
        key = np.unique(np.stack([self.caption_ids[positive], self.photo_of[positive]], axis=1), axis=0)
        ids, starts, counts = np.unique(key[:, 0], return_index=True, return_counts=True)
        listed = np.flatnonzero((counts > 1) | np.isin(ids, self.caption_ids[~positive]))
        return {int(ids[i]): frozenset(key[starts[i] : starts[i] + counts[i], 1].tolist()) for i in listed}

    def _by_lang(self, rows: np.ndarray, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Group a photograph's rows by language, without languages of weight 0."""
        langs = np.array([self.langs[row] for row in rows])
        return {lang: rows[langs == lang] for lang in np.unique(langs).tolist() if weights.get(lang, 1.0) > 0.0}

    def _langs(self, source: int, draws: np.random.Generator) -> tuple[str, str]:
        """Draw the languages of queries and positives; the weight of a pair is the product of both weights."""
        pairs = list(self.candidates[source])
        weights = np.array([self.lang_weights.get(q, 1.0) * self.lang_weights.get(p, 1.0) for q, p in pairs])
        return pairs[draws.choice(len(pairs), p=weights / weights.sum())]

    def _instruction(self, query: int, positive: int) -> str:
        templates = self.instructions
        if self.langs[query] != self.langs[positive]:
            return templates.across_languages
        lengths = (self.lengths[query], self.lengths[positive])
        return {("short", "long"): templates.short_to_long, ("long", "short"): templates.long_to_short}.get(
            lengths, templates.otherwise
        )


def _photographs_by_langs(photographs: Sequence[Mapping[str, np.ndarray]]) -> dict[tuple[str, str], np.ndarray]:
    """Indices of the photographs that have a pair of captions in two given languages, which may be the same.

    Pairs of languages that fewer than two photographs have are left out.
    """
    langs = sorted({lang for photograph in photographs for lang in photograph})
    found = {
        (query, positive): np.flatnonzero(
            [
                len(photograph.get(query, ())) > (query == positive) and positive in photograph
                for photograph in photographs
            ]
        )
        for query in langs
        for positive in langs
    }
    return {pair: candidates for pair, candidates in found.items() if len(candidates) >= 2}


def _pair(
    photograph: Mapping[str, np.ndarray], query: str, positive: str, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw two different rows of a photograph, int64 ``[1]`` each."""
    if query == positive:
        pair = draws.choice(photograph[query], size=2, replace=False)
        return pair[:1], pair[1:]
    return draws.choice(photograph[query], size=1), draws.choice(photograph[positive], size=1)


def _halves(
    photograph: Mapping[str, np.ndarray], query: str, positive: str, draws: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the rows of two texts of a photograph, int64 ``[n]`` and ``[m]``, in random order and without common rows.

    Both numbers are random, so that a batch has captions of all lengths.
    """
    if query == positive:
        rows = draws.permutation(photograph[query])
        cut = int(draws.integers(1, len(rows)))
        return rows[:cut], rows[cut : cut + int(draws.integers(1, len(rows) - cut + 1))]
    left, right = (draws.permutation(photograph[lang]) for lang in (query, positive))
    return left[: int(draws.integers(1, len(left) + 1))], right[: int(draws.integers(1, len(right) + 1))]
