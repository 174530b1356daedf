"""Images matched with their captions for stage 2, and the sampling of batches from them."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import photo_key
from llm2clip_search.training.data.image_set import ImageSet
from llm2clip_search.training.runtime.seeds import generator


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """Images that have captions."""

    image_ids: list[str]
    caption_rows: list[np.ndarray]
    """For each image, the rows of its captions in the caption table, int64 ``[n]``."""
    weights: np.ndarray
    """Sampling weight of each image, float64 ``[n]``: the largest weight of the sources of its captions."""
    skipped: dict[str, list[str]]
    """Ids of skipped images by reason."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of images used, and of images skipped by reason."""
        return {"images": len(self.image_ids), **{why: len(ids) for why, ids in self.skipped.items()}}

    def without(self, image_ids: Set[str], reason: str) -> "CaptionedImages":
        """The images except for some, which are skipped for a reason.

        Raises:
            CorpusError: fewer than two are left.
        """
        kept = [row for row, image_id in enumerate(self.image_ids) if image_id not in image_ids]
        _require_two(len(kept))
        return CaptionedImages(
            image_ids=[self.image_ids[row] for row in kept],
            caption_rows=[self.caption_rows[row] for row in kept],
            weights=self.weights[kept],
            skipped=self.skipped | {reason: sorted(image_ids)},
        )


def _require_two(count: int) -> None:
    if count < 2:
        raise CorpusError(
            f"Images with captions that can be read and are not held out: {count}; a contrastive batch needs at least"
            " two."
        )


def match_captions(
    files: ImageSet,
    captions: pa.Table,
    *,
    source_weights: Sequence[float],
    max_missing: float,
    held_out_hashes: Set[str] = frozenset(),
    held_out_photos: Set[str] = frozenset(),
    finds_copies: bool = False,
) -> CaptionedImages:
    """Match captions with the images they describe, by id; hard negatives and text without an image are ignored.

    Images of benchmark splits are left out: those with a held-out photograph's name (see
    `caption_table.held_out_photos`), and those with the same bytes as a held-out image, whatever their names.

    Args:
        source_weights: sampling weights of the sources that the table's rows refer to.
        max_missing: largest accepted fraction of images without captions, and of captioned images that are missing.
        finds_copies: whether images of equal content count once, as the first of them, with the captions of all; reads
            every image.

    Raises:
        CorpusError: nothing matches, or more than ``max_missing`` is missing; the message has both counts and an
            example.
    """
    rows: dict[str, list[int]] = {}
    missing: dict[str, None] = {}
    columns = (captions["image_id"].to_pylist(), captions["negative"].to_pylist())
    for row, (image_id, negative) in enumerate(zip(*columns, strict=True)):
        if image_id is None or negative:
            continue
        found = files.find(image_id)
        if found is None:
            missing[image_id] = None
        else:
            rows.setdefault(found, []).append(row)
    if not rows:
        example = f", such as {next(iter(missing))!r}," if missing else ""
        raise CorpusError(
            f"None of the {len(missing):,} captioned images{example} is among the {len(files):,} images,"
            f" such as {next(iter(files))!r}; an image id is a name in a shard or a path below the folder."
        )
    named = {image_id for image_id in files if photo_key(image_id) in held_out_photos}
    uncaptioned = [image_id for image_id in files if image_id not in rows and image_id not in named]
    for what, ids, total in (
        ("images have no caption", uncaptioned, len(files)),
        ("captioned images are missing", list(missing), len(missing) + len(rows)),
    ):
        if len(ids) > max_missing * total:
            raise CorpusError(
                f"{len(ids):,} of {total:,} {what}, such as {ids[0]!r}; the recipe's max_missing allows"
                f" {max_missing:.1%}."
            )
    digests = files.content_hashes if held_out_hashes or finds_copies else {}
    alike = {image_id for image_id, digest in digests.items() if digest in held_out_hashes} - named
    out = named | alike
    kept = [image_id for image_id in files if image_id in rows and image_id not in out]
    copies = _join_copies(kept, rows, digests, captions) if finds_copies else {}
    kept = [image_id for image_id in kept if image_id not in copies]
    _require_two(len(kept))
    skipped = {
        "images without captions": uncaptioned,
        "captioned images missing": list(missing),
        "held out by name": sorted(named),
        "held out by content": sorted(alike),
        **({"copies of another image": list(copies)} if finds_copies else {}),
    }
    weight_of = np.array(source_weights, dtype=np.float64)[captions["source"].to_numpy()]
    return CaptionedImages(
        image_ids=kept,
        caption_rows=[np.array(rows[i], dtype=np.int64) for i in kept],
        weights=np.array([weight_of[rows[i]].max() for i in kept]),
        skipped=skipped,
    )


def _join_copies(
    image_ids: Sequence[str], rows: dict[str, list[int]], digests: Mapping[str, str], captions: pa.Table
) -> dict[str, str]:
    """Give the first of images with equal content the rows of all, each caption once; returns it by the others."""
    texts, langs = captions["caption_id"].to_pylist(), captions["lang"].to_pylist()
    first: dict[str, str] = {}
    copies: dict[str, str] = {}
    for image_id in image_ids:
        if (original := first.setdefault(digests[image_id], image_id)) != image_id:
            copies[image_id] = original
            joined = {(texts[row], langs[row]): row for row in reversed([*rows[original], *rows[image_id]])}
            rows[original] = sorted(joined.values())
    return copies


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """The images of a step, and captions of each."""

    images: np.ndarray
    """int64 ``[n]``, indices into `CaptionedImages.image_ids`."""
    captions: np.ndarray
    """int64 ``[n, k]``, rows of the caption table: ``k`` captions per image."""


class ImageCaptionSampler:
    """Samples the images of a step and captions of each.

    If all images have the same weight, an epoch shows each of them at most once, and images that do not fill a batch
    at its end are dropped. Otherwise each batch is drawn by weight, without repetition within the batch. For each
    caption, the length class is drawn by ``long_ratio`` if the image has both classes, then the language by weight.

    With `add_hard_negatives`, this holds for the images of a batch that are not drawn as hard negatives of others.
    """

    def __init__(
        self,
        captioned: CaptionedImages,
        captions: pa.Table,
        *,
        batch_size: int,
        captions_per_image: int,
        long_ratio: float,
        lang_weights: Mapping[str, float],
        seed: int,
    ) -> None:
        self.caption_rows, self.seed, self.captions_per_image = captioned.caption_rows, seed, captions_per_image
        is_weighted = bool((captioned.weights != captioned.weights[0]).any())
        self._image_chances = captioned.weights / captioned.weights.sum() if is_weighted else None
        self.batch_size = min(batch_size, len(captioned.caption_rows))
        self._shown = np.flatnonzero(captioned.weights > 0)
        self._first, self._neighbours = self.batch_size, np.empty((0, 0), dtype=np.int64)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        langs, lengths = captions["lang"].to_pylist(), captions["length"].to_pylist()
        self.chances = [
            _chances([langs[r] for r in rows], [lengths[r] for r in rows], long_ratio, lang_weights)
            for rows in captioned.caption_rows
        ]
        if unusable := [captioned.image_ids[i] for i, chance in enumerate(self.chances) if chance.sum() == 0]:
            raise CorpusError(
                f"{len(unusable):,} images, such as {unusable[0]!r}, have captions only in languages of weight 0."
            )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.caption_rows) // self._first

    @property
    def drawn_rows(self) -> list[np.ndarray]:
        """For each image, the rows of its captions that can be drawn, int64 ``[n]``."""
        return [rows[chance > 0] for rows, chance in zip(self.caption_rows, self.chances, strict=True)]

    def add_hard_negatives(self, neighbours: np.ndarray, share: float) -> None:
        """Fill a share of every batch with neighbours of its other images.

        Args:
            neighbours: of every image, see `hard_negatives.neighbours_of`.
            share: see `hard_negatives.HardNegatives`; at least one image of a batch is drawn as without it.
        """
        self._first = max(1, self.batch_size - round(share * self.batch_size))
        self._neighbours = neighbours

    def draw(self, step: int) -> ImageBatch:
        """Draw the batch of a step; it depends only on the seed, the step and the neighbours."""
        images = self._with_neighbours(self._images(step), step)
        draws = generator(self.seed, step, "captions")
        captions = [self._captions(draws, int(image)) for image in images]
        return ImageBatch(images=images, captions=np.array(captions))

    def _images(self, step: int) -> np.ndarray:
        if self._image_chances is not None:
            draws, count = generator(self.seed, step, "images"), len(self.caption_rows)
            return draws.choice(count, size=self._first, replace=False, p=self._image_chances)
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = generator(self.seed, epoch, "order of an epoch").permutation(len(self.caption_rows))
        return self._order[index * self._first : (index + 1) * self._first]

    def _with_neighbours(self, images: np.ndarray, step: int) -> np.ndarray:
        """A whole batch: neighbours of the images in turn, each once, and other images if there are too few."""
        if len(images) == self.batch_size:
            return images
        draws = generator(self.seed, step, "hard negatives")
        near = draws.permuted(self._neighbours[images], axis=1).T.ravel()
        others = draws.choice(self._shown, size=min(self.batch_size, len(self._shown)), replace=False)
        batch = np.concatenate([images, near[np.isin(near, self._shown)], others])
        _, first = np.unique(batch, return_index=True)
        return batch[np.sort(first)[: self.batch_size]]

    def _captions(self, draws: np.random.Generator, image: int) -> np.ndarray:
        """Rows of an image's captions, without repetition if the image has enough."""
        count, chances = self.captions_per_image, self.chances[image]
        scarce = bool((chances > 0).sum() < count)
        rows: np.ndarray = draws.choice(self.caption_rows[image], size=count, replace=scarce, p=chances)
        return rows


def _chances(
    langs: Sequence[str], lengths: Sequence[str], long_ratio: float, lang_weights: Mapping[str, float]
) -> np.ndarray:
    """Probabilities of drawing each caption of an image."""
    classes = Counter(zip(langs, lengths, strict=True))
    raw = np.array([lang_weights.get(pair[0], 1.0) / classes[pair] for pair in zip(langs, lengths, strict=True)])
    is_long = np.array([length == "long" for length in lengths])
    if is_long.any() and not is_long.all():
        for mask, share in ((is_long, long_ratio), (~is_long, 1.0 - long_ratio)):
            raw[mask] *= share / max(raw[mask].sum(), 1e-12)
    total = raw.sum()
    chances: np.ndarray = raw / total if total > 0 else raw
    return chances
