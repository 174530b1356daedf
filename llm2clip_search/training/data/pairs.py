"""Batches of caption pairs for stage 1: two captions of one photograph, many photographs a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from llm2clip_search.errors import CorpusError
from llm2clip_search.training.runtime.seeds import generator

NO_PHOTOGRAPH = -1
"""Stands for a hard negative's photograph."""


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """What a query says before its caption, by the kind of its pair; the positive carries none."""

    short_to_long: str = ""
    long_to_short: str = ""
    across_languages: str = ""
    otherwise: str = ""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """``n`` queries, and ``n`` positives in the same order with hard negatives behind them."""

    queries: list[str]
    gallery: list[str]
    instructions: list[str]
    """One a query; empty strings for none."""
    query_photos: torch.Tensor
    """int64 ``[n]``: equal where two rows describe one photograph."""
    gallery_photos: torch.Tensor
    """int64 ``[m]``, ``m >= n``; `NO_PHOTOGRAPH` for hard negatives."""
    shared_photos: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """All the photographs of a text that describes others than its row's own."""

    def same(self) -> torch.Tensor:
        """bool ``[n, m]``: where some photograph is described by query and item, which are no negatives then.

        A caption that several photographs share describes each of them: it is no negative of their other
        captions, while those remain negatives of each other.
        """
        shared = self.shared_photos
        same = self.query_photos[:, None] == self.gallery_photos[None, :]
        queries = {row: shared[text] for row, text in enumerate(self.queries) if text in shared}
        items = {place: self.shared_photos[text] for place, text in enumerate(self.gallery) if text in shared}
        for row, photos in queries.items():
            same[row] |= torch.isin(self.gallery_photos, torch.tensor(list(photos)))
            for place, others in items.items():
                if not photos.isdisjoint(others):
                    same[row, place] = True
        for place, photos in items.items():
            same[:, place] |= torch.isin(self.query_photos, torch.tensor(list(photos)))
        return same


class CaptionPairSampler:
    """Draws pairs from captions of photographs.

    A batch comes from one source, its queries are in one language and its positives in one, each drawn by
    weight: in a batch of mixed languages most negatives would be told apart by their language alone.
    """

    def __init__(
        self,
        captions: pa.Table,
        *,
        source_weights: Sequence[float],
        lang_weights: Mapping[str, float],
        instructions: Instructions,
        seed: int,
    ) -> None:
        """Group the captions (see `caption_table.CAPTION_SCHEMA`) by source and photograph.

        Raises:
            CorpusError: a source to draw from, or every source, without two photographs that have a pair.
        """
        self.seed = seed
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
        self.places: list[dict[tuple[str, str], np.ndarray]] = []
        self.negatives: list[dict[int, np.ndarray]] = []
        source_of = captions["source"].to_numpy()
        for source in range(len(source_weights)):
            rows = np.flatnonzero((source_of == source) & ~negative)
            groups = [self._by_lang(members, lang_weights) for members in self._photographs(rows)]
            self.sources.append([group for group in groups if sum(map(len, group.values())) >= 2])
            self.places.append(_places(self.sources[-1]))
            others = self._photographs(np.flatnonzero((source_of == source) & negative))
            self.negatives.append({int(self.photo_of[rows[0]]): rows for rows in others})
        for number, (weight, groups, places) in enumerate(
            zip(source_weights, self.sources, self.places, strict=True), 1
        ):
            if weight > 0.0 and not places:
                raise CorpusError(
                    f"Caption source {number} of {len(source_weights)} has no pairs: of its {len(groups)} photographs"
                    " with two different captions in languages of some weight, 2 must have them in the same languages;"
                    " give the source weight 0 if stage 1 is not to use it."
                )
        weights = np.array(source_weights, dtype=np.float64)
        if not weights.sum() > 0.0:
            raise CorpusError(f"All {len(weights)} caption sources have weight 0, so that there is no pair to learn.")
        self.source_chances = weights / weights.sum()
        self.lang_weights = lang_weights

    def __len__(self) -> int:
        """Photographs that pairs come from."""
        return sum(map(len, self.sources))

    def draw(self, step: int, count: int) -> PairBatch:
        """The pairs of a step: ``count`` photographs of one source that have the languages, or all where fewer do.

        A photograph that has hard negatives adds one of them to the gallery. A function of seed and step
        alone.
        """
        draws = generator(self.seed, step, "pairs")
        source = int(draws.choice(len(self.sources), p=self.source_chances))
        query, positive = self._langs(source, draws)
        places = self.places[source][query, positive]
        chosen = draws.choice(places, size=min(count, len(places)), replace=False)
        pairs = np.array([_pair(self.sources[source][place], query, positive, draws) for place in chosen])
        photos = torch.from_numpy(self.photo_of[pairs[:, 0]])
        pools = [self.negatives[source][p] for p in photos.tolist() if p in self.negatives[source]]
        negatives = np.array([draws.choice(pool) for pool in pools], dtype=np.int64)
        gallery = np.concatenate([pairs[:, 1], negatives])
        known = self.photos_of_caption
        drawn = {self.texts[row]: int(self.caption_ids[row]) for row in (*pairs[:, 0], *gallery)}
        return PairBatch(
            queries=[self.texts[row] for row in pairs[:, 0]],
            gallery=[self.texts[row] for row in gallery],
            instructions=[self._instruction(*pair) for pair in pairs],
            query_photos=photos,
            gallery_photos=torch.cat([photos, torch.full((len(negatives),), NO_PHOTOGRAPH)]),
            shared_photos={text: known[key] for text, key in drawn.items() if key in known},
        )

    def _photographs(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows by photograph, each caption once."""
        key = np.stack([self.photo_of[rows], self.caption_ids[rows]], axis=1)
        _, first = np.unique(key, axis=0, return_index=True)
        rows = rows[np.sort(first)]
        order = np.argsort(self.photo_of[rows], kind="stable")
        starts = np.flatnonzero(np.diff(self.photo_of[rows][order])) + 1
        return [rows[part] for part in np.split(order, starts)] if len(rows) else []

    def _shared(self, positive: np.ndarray) -> dict[int, frozenset[int]]:
        """The photographs of each caption that describes several, or that is some photograph's negative."""
        key = np.unique(np.stack([self.caption_ids[positive], self.photo_of[positive]], axis=1), axis=0)
        ids, starts, counts = np.unique(key[:, 0], return_index=True, return_counts=True)
        told = np.flatnonzero((counts > 1) | np.isin(ids, self.caption_ids[~positive]))
        return {int(ids[i]): frozenset(key[starts[i] : starts[i] + counts[i], 1].tolist()) for i in told}

    def _by_lang(self, rows: np.ndarray, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
        """A photograph's rows by language; languages of weight 0 are left out."""
        langs = np.array([self.langs[row] for row in rows])
        return {lang: rows[langs == lang] for lang in np.unique(langs).tolist() if weights.get(lang, 1.0) > 0.0}

    def _langs(self, source: int, draws: np.random.Generator) -> tuple[str, str]:
        """Of a batch's queries and of its positives; a pair of languages weighs the product of both."""
        pairs = list(self.places[source])
        weights = np.array([self.lang_weights.get(q, 1.0) * self.lang_weights.get(p, 1.0) for q, p in pairs])
        return pairs[draws.choice(len(pairs), p=weights / weights.sum())]

    def _instruction(self, query: int, positive: int) -> str:
        say = self.instructions
        if self.langs[query] != self.langs[positive]:
            return say.across_languages
        lengths = (self.lengths[query], self.lengths[positive])
        return {("short", "long"): say.short_to_long, ("long", "short"): say.long_to_short}.get(lengths, say.otherwise)


def _places(groups: Sequence[Mapping[str, np.ndarray]]) -> dict[tuple[str, str], np.ndarray]:
    """Places of the photographs that have a caption in one language and another in a second, or the same,
    by both languages; those of two photographs at least."""
    langs = sorted({lang for group in groups for lang in group})
    found = {
        (query, positive): np.flatnonzero(
            [len(group.get(query, ())) > (query == positive) and positive in group for group in groups]
        )
        for query in langs
        for positive in langs
    }
    return {pair: places for pair, places in found.items() if len(places) >= 2}


def _pair(group: Mapping[str, np.ndarray], query: str, positive: str, draws: np.random.Generator) -> np.ndarray:
    """Two different rows of a photograph, int64 ``[2]``."""
    if query == positive:
        return draws.choice(group[query], size=2, replace=False)
    return np.array([draws.choice(group[query]), draws.choice(group[positive])])
