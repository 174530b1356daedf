"""Images joined with their captions for stage 2, and which of them a step shows."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import CorpusError
from llm2clip_search.training.data.caption_table import photo_key
from llm2clip_search.training.runtime.seeds import generator


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """Images that have captions."""

    image_ids: list[str]
    caption_rows: list[np.ndarray]
    """Of each image, its rows in the caption table."""
    skipped: dict[str, list[str]]
    """Ids of what was left out, by why."""

    @property
    def counts(self) -> dict[str, int]:
        """What was found and left out."""
        return {"images": len(self.image_ids), **{why: len(ids) for why, ids in self.skipped.items()}}


def match_captions(
    files: ImageFiles,
    captions: pa.Table,
    *,
    max_missing: float,
    held_out_hashes: Set[str] = frozenset(),
    held_out_photos: Set[str] = frozenset(),
) -> CaptionedImages:
    """Captions to the images they describe, by id; hard negatives and text without an image join nothing.

    Images that a benchmark split shows fall away: those that it names (see `caption_table.held_out_photos`)
    and those whose bytes it has, whatever their names.

    Raises:
        CorpusError: nothing joins, or more than ``max_missing`` of the images lack captions or of the
            captioned images are missing; both counts and an example are named.
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
            f" such as {next(iter(files))!r}; ids are names in a shard or paths below the folder."
        )
    named = {image_id for image_id in files if photo_key(image_id) in held_out_photos}
    silent = [image_id for image_id in files if image_id not in rows and image_id not in named]
    for what, ids, total in (
        ("images have no caption", silent, len(files)),
        ("captioned images are missing", list(missing), len(missing) + len(rows)),
    ):
        if len(ids) > max_missing * total:
            raise CorpusError(
                f"{len(ids):,} of {total:,} {what}, such as {ids[0]!r}; at most {max_missing:.1%} may be"
                " (the recipe's max_missing)."
            )
    digests = files.content_hashes if held_out_hashes else {}
    alike = {image_id for image_id, digest in digests.items() if digest in held_out_hashes} - named
    out = named | alike
    kept = [image_id for image_id in files if image_id in rows and image_id not in out]
    if len(kept) < 2:
        raise CorpusError(f"{len(kept)} images have captions and are not held out; a contrastive batch needs two.")
    skipped = {
        "images without captions": silent,
        "captioned images missing": list(missing),
        "held out by name": sorted(named),
        "held out by content": sorted(alike),
    }
    return CaptionedImages(
        image_ids=kept, caption_rows=[np.array(rows[i], dtype=np.int64) for i in kept], skipped=skipped
    )


def held_out_hashes(files: ImageFiles, photos: Set[str]) -> frozenset[str]:
    """Content hashes of the images that benchmark splits name.

    Raises:
        CorpusError: none of them is among the files: a check against nothing would pass everything.
    """
    hashes = frozenset(h for image_id, h in files.content_hashes.items() if photo_key(image_id) in photos)
    if photos and not hashes:
        raise CorpusError(
            f"None of the {len(photos):,} held-out photographs, such as {min(photos)!r}, is among the"
            f" {len(files):,} images whose content is to be kept out of training."
        )
    return hashes


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """What a step shows: images, and captions of each."""

    images: np.ndarray
    """int64 ``[n]``, places in `CaptionedImages.image_ids`."""
    captions: np.ndarray
    """int64 ``[n, k]``, rows of the caption table."""


class ImageCaptionSampler:
    """Draws a step's images and captions of each; an epoch shows an image once, or leaves it over as remainder.

    Length classes are drawn by ``long_ratio`` where an image has both, then languages by weight, then a
    caption.
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
        self.batch_size = min(batch_size, len(captioned.caption_rows))
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)
        langs, lengths = captions["lang"].to_pylist(), captions["length"].to_pylist()
        self.chances = [
            _chances([langs[r] for r in rows], [lengths[r] for r in rows], long_ratio, lang_weights)
            for rows in captioned.caption_rows
        ]
        if silent := [captioned.image_ids[i] for i, chance in enumerate(self.chances) if chance.sum() == 0]:
            raise CorpusError(
                f"{len(silent):,} images, such as {silent[0]!r}, have captions only in languages of weight 0."
            )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.caption_rows) // self.batch_size

    def draw(self, step: int) -> ImageBatch:
        """The images and captions of a step, a function of seed and step alone."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = generator(self.seed, epoch, "order of an epoch").permutation(len(self.caption_rows))
        images = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        draws = generator(self.seed, step, "captions")
        captions = [self._captions(draws, int(image)) for image in images]
        return ImageBatch(images=images, captions=np.array(captions))

    def _captions(self, draws: np.random.Generator, image: int) -> np.ndarray:
        """Rows of an image's captions; one comes twice only where there are too few."""
        count, chances = self.captions_per_image, self.chances[image]
        scarce = bool((chances > 0).sum() < count)
        rows: np.ndarray = draws.choice(self.caption_rows[image], size=count, replace=scarce, p=chances)
        return rows


def _chances(
    langs: Sequence[str], lengths: Sequence[str], long_ratio: float, weights: Mapping[str, float]
) -> np.ndarray:
    """Of each caption of an image to be drawn."""
    classes = Counter(zip(langs, lengths, strict=True))
    raw = np.array([weights.get(pair[0], 1.0) / classes[pair] for pair in zip(langs, lengths, strict=True)])
    is_long = np.array([length == "long" for length in lengths])
    if is_long.any() and not is_long.all():
        for mask, share in ((is_long, long_ratio), (~is_long, 1.0 - long_ratio)):
            raw[mask] *= share / max(raw[mask].sum(), 1e-12)
    total = raw.sum()
    chances: np.ndarray = raw / total if total > 0 else raw
    return chances
