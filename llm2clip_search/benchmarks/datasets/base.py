"""What a retrieval benchmark is made of: a gallery of images, captions by language, and how to get both.

A reader turns the files that a data set's authors distribute into a `RetrievalSet`. Images and captions
meet by id, never by position.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llm2clip_search.corpora.captions import join_sentences
from llm2clip_search.corpora.image_files import ImageFiles
from llm2clip_search.errors import CorpusError

ALL_LANGS = "all"
"""Asks for every language that a data set has."""


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions of one language; three lists of one length, in the order of the authors' file."""

    texts: list[str]
    image_ids: list[str]
    """Of each caption, the id of the image that it describes."""
    caption_ids: list[str]
    """The authors' own ids where they gave some; unique."""

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> "Captions":
        """Of ``(image id, caption)`` pairs without ids of their own: a caption is ``IMAGE#n``, its n-th from 0."""
        seen: dict[str, int] = {}
        ids = []
        for image, _ in pairs:
            ids.append(f"{image}#{seen.get(image, 0)}")
            seen[image] = seen.get(image, 0) + 1
        return cls(texts=[text for _, text in pairs], image_ids=[image for image, _ in pairs], caption_ids=ids)

    def rows_in(self, images: Sequence[str]) -> np.ndarray:
        """int64 row of each caption's image in ``images``: mapped by id, never by position.

        Raises:
            CorpusError: captions of images that are not there.
        """
        place = {image: row for row, image in enumerate(images)}
        if missing := set(self.image_ids) - place.keys():
            raise CorpusError(f"{len(missing):,} images have captions but are not there, such as {min(missing)}.")
        return np.array([place[image] for image in self.image_ids], dtype=np.int64)

    def take(self, rows: Sequence[int]) -> "Captions":
        """The captions of those rows."""
        return Captions(
            texts=[self.texts[row] for row in rows],
            image_ids=[self.image_ids[row] for row in rows],
            caption_ids=[self.caption_ids[row] for row in rows],
        )

    def first(self, count: int) -> "Captions":
        """At most ``count`` captions of each image, the first ones."""
        seen: dict[str, int] = {}
        rows = []
        for row, image in enumerate(self.image_ids):
            seen[image] = seen.get(image, 0) + 1
            if seen[image] <= count:
                rows.append(row)
        return self.take(rows)

    def joined(self, parts: int) -> "Captions":
        """One long caption an image: its first ``parts`` captions; images with fewer than two are left out."""
        of_image: dict[str, list[str]] = {}
        for text, image in zip(self.texts, self.image_ids, strict=True):
            of_image.setdefault(image, []).append(text)
        long = [(image, join_sentences(texts[:parts])) for image, texts in of_image.items() if len(texts) > 1]
        return Captions.of(long)

    def digest(self) -> str:
        """16 hex digits of texts and what they describe, in their order."""
        return texts_digest([*self.caption_ids, *self.image_ids, *self.texts])


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """One split of a data set, as it is measured."""

    name: str
    split: str
    images: ImageFiles
    """The gallery, in its order; an image without a caption is in it too, and can only be missed."""
    captions: Mapping[str, Captions]
    """By language, as ``bench retrieval --langs`` names it."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know, a sentence each: which captions were read, what was left out."""
    folds: int = 0
    """Also measured as the mean over this many equal parts, in the gallery's order: COCO 1K is five of 5K."""
    judged: bool = False
    """Whether ids are COCO's own, of images and annotations: the judgments of ECCV Caption and CxC apply then."""

    def changed(self, change: Callable[[Captions], Captions], note: str) -> "RetrievalSet":
        """The set with other captions made of its own, and a note that says so."""
        captions = {lang: change(found) for lang, found in self.captions.items()}
        return replace(self, captions=captions, notes=(*self.notes, note))


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A data set that this package can read, and what to say where it is not."""

    name: str
    """As it is named on the command line and, where CLIP_benchmark has it too, there."""
    title: str
    langs: tuple[str, ...]
    """Languages that it has; empty where the files decide."""
    splits: tuple[str, ...]
    """The first one is the default; empty where the files decide."""
    fetch: str
    """What to download and how to lay it under ``--root``, in sentences."""
    read: Callable[[Path, str, Sequence[str]], RetrievalSet]
    """Root, split and languages to the set; raises `CorpusError` for what is missing or broken. Where the files
    decide on languages, none are the reader's default, and `ALL_LANGS` alone are all."""
    also_called: tuple[str, ...] = ()
    """Words that a model card may use for the same photographs or captions."""

    def open(self, root: Path, *, split: str = "", langs: Sequence[str] = ()) -> RetrievalSet:
        """Read a split, by default the first one in its first language; `ALL_LANGS` alone are all languages.

        Raises:
            CorpusError: a split or language that it does not have, files that are missing or broken, an empty
                split, a caption of an image that is not there; what to download is named.
        """
        split = split or (self.splits[0] if self.splits else "")
        langs = tuple(langs) or self.langs[:1]
        if langs == (ALL_LANGS,) and self.langs:
            langs = self.langs
        if self.splits and split not in self.splits:
            raise CorpusError(f"{self.title} has no split {split!r}; it has {', '.join(self.splits)}.")
        for lang in langs:
            if self.langs and lang not in self.langs:
                raise CorpusError(f"{self.title} has no captions in {lang!r}; it has {', '.join(self.langs)}.")
        if not root.is_dir():
            raise CorpusError(f"{root} is no folder; --root names that of {self.title}. {self.fetch}")
        try:
            found = self.read(root, split, langs)
        except CorpusError as error:
            raise CorpusError(f"{error} {self.fetch}") from error
        self._demand_whole(found)
        return found

    def _demand_whole(self, found: RetrievalSet) -> None:
        if not len(found.images):
            raise CorpusError(f"Split {found.split!r} of {self.title} has no image. {self.fetch}")
        images = list(found.images)
        for lang, captions in found.captions.items():
            if not len(captions):
                raise CorpusError(f"Split {found.split!r} of {self.title} has no caption in {lang!r}. {self.fetch}")
            twice, times = Counter(captions.caption_ids).most_common(1)[0]
            if times > 1:
                raise CorpusError(f"{self.title} has {times} captions of id {twice!r}: its files are mixed or damaged.")
            captions.rows_in(images)


def images_digest(images: ImageFiles) -> str:
    """16 hex digits of ids and bytes of all images, in their order; every file is read."""
    return texts_digest([part for pair in images.content_hashes.items() for part in pair])


def texts_digest(parts: Sequence[str]) -> str:
    """16 hex digits of some texts and their order; no two lists of texts run together."""
    out = hashlib.sha256()
    for part in parts:
        data = part.encode()
        out.update(len(data).to_bytes(8, "little"))
        out.update(data)
    return out.hexdigest()[:16]
