"""The parts of a retrieval benchmark: a gallery of images, captions by language, and how to obtain them.

A reader turns the files that a data set's authors distribute into a `RetrievalSet`. Captions are mapped to images by
id, never by position.
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
"""Selects every language of a data set."""


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Captions in one language: three lists of equal length, in the order of the authors' file."""

    texts: list[str]
    image_ids: list[str]
    """Id of the image that each caption describes."""
    caption_ids: list[str]
    """Unique ids; the authors' own if they assigned any."""

    def __len__(self) -> int:
        return len(self.texts)

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]]) -> "Captions":
        """From ``(image id, caption)`` pairs; the n-th caption of an image, from 0, gets the id ``IMAGE#n``."""
        seen: dict[str, int] = {}
        ids = []
        for image, _ in pairs:
            ids.append(f"{image}#{seen.get(image, 0)}")
            seen[image] = seen.get(image, 0) + 1
        return cls(texts=[text for _, text in pairs], image_ids=[image for image, _ in pairs], caption_ids=ids)

    def rows_in(self, images: Sequence[str]) -> np.ndarray:
        """Row in ``images`` of each caption's image, int64 ``[n_captions]``, mapped by id.

        Raises:
            CorpusError: some captions are of images that are not in ``images``.
        """
        row_of = {image: row for row, image in enumerate(images)}
        if missing := set(self.image_ids) - row_of.keys():
            raise CorpusError(f"{len(missing):,} images have captions but are missing, such as {min(missing)}.")
        return np.array([row_of[image] for image in self.image_ids], dtype=np.int64)

    def take(self, rows: Sequence[int]) -> "Captions":
        """The captions in those rows."""
        return Captions(
            texts=[self.texts[row] for row in rows],
            image_ids=[self.image_ids[row] for row in rows],
            caption_ids=[self.caption_ids[row] for row in rows],
        )

    def first(self, count: int) -> "Captions":
        """The first ``count`` captions of each image, or all if it has fewer."""
        seen: dict[str, int] = {}
        rows = []
        for row, image in enumerate(self.image_ids):
            seen[image] = seen.get(image, 0) + 1
            if seen[image] <= count:
                rows.append(row)
        return self.take(rows)

    def joined(self, parts: int) -> "Captions":
        """One long caption per image: its first ``parts`` captions joined. Images with one caption are left out."""
        of_image: dict[str, list[str]] = {}
        for text, image in zip(self.texts, self.image_ids, strict=True):
            of_image.setdefault(image, []).append(text)
        long = [(image, join_sentences(texts[:parts])) for image, texts in of_image.items() if len(texts) > 1]
        return Captions.of(long)

    def digest(self) -> str:
        """16 hex digits that identify the captions, their ids, their images and their order."""
        return texts_digest([*self.caption_ids, *self.image_ids, *self.texts])


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """One split of a data set as it is measured."""

    name: str
    split: str
    images: ImageFiles
    """The gallery, in order; it includes images without captions, which text retrieval can only miss."""
    captions: Mapping[str, Captions]
    """By language code, as in `DatasetInfo.langs`."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader of the results must know: which captions were read, what was left out."""
    folds: int = 0
    """If not 0, also measure the mean over this many equal parts of the gallery; COCO 1K is five parts of COCO 5K."""
    judged: bool = False
    """Whether image and caption ids are COCO's, so that the judgments of ECCV Caption and CxC apply."""

    def changed(self, change: Callable[[Captions], Captions], note: str) -> "RetrievalSet":
        """The set with ``change`` applied to the captions of each language, and a note that says so."""
        captions = {lang: change(found) for lang, found in self.captions.items()}
        return replace(self, captions=captions, notes=(*self.notes, note))


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A data set that this package can read, and how to obtain it."""

    name: str
    """Name on the command line; the same as in CLIP_benchmark if that has the data set."""
    title: str
    langs: tuple[str, ...]
    """Language codes; empty if the files decide."""
    splits: tuple[str, ...]
    """The first one is the default; empty if the files decide."""
    fetch: str
    """Sentences that say what to download and where to put it; ROOT stands for the folder of the data set."""
    read: Callable[[Path, str, Sequence[str]], RetrievalSet]
    """Reads a set, given root, split and languages; raises `CorpusError` for anything missing or broken. If the files
    decide the languages, no language means the reader's default and ``(ALL_LANGS,)`` means all."""
    also_called: tuple[str, ...] = ()
    """Other names by which a model card may refer to the same photographs or captions."""
    folder: str = ""
    """Name of its folder in a folder of several data sets, if that is not its own name."""

    def folder_in(self, root: Path) -> Path:
        """Where the data set is if ``root`` holds several."""
        return root / (self.folder or self.name)

    def open(self, root: Path, *, split: str = "", langs: Sequence[str] = ()) -> RetrievalSet:
        """Read a split.

        Args:
            root: folder of the data set.
            split: by default the first one.
            langs: by default the first one; ``[ALL_LANGS]`` selects all.

        Raises:
            CorpusError: there is no such split or language, files are missing or broken, the split is empty, or a
                caption is of a missing image. The hint says what to download.
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
            raise CorpusError(f"{root} is not a folder, so {self.title} cannot be read.", hint=self._hint())
        try:
            found = self.read(root, split, langs)
        except CorpusError as error:
            raise CorpusError(str(error), hint=self._hint(error.hint)) from error
        self._check_complete(found)
        return found

    def _hint(self, before: str = "") -> str:
        return f"{before} ROOT is the folder that --root names. {self.fetch}".strip()

    def _check_complete(self, found: RetrievalSet) -> None:
        if not len(found.images):
            raise CorpusError(f"Split {found.split!r} of {self.title} has no images.", hint=self._hint())
        images = list(found.images)
        for lang, captions in found.captions.items():
            if not len(captions):
                raise CorpusError(
                    f"Split {found.split!r} of {self.title} has no captions in {lang!r}.", hint=self._hint()
                )
            repeated, times = Counter(captions.caption_ids).most_common(1)[0]
            if times > 1:
                raise CorpusError(
                    f"{self.title} has {times} captions with id {repeated!r}: its files are mixed or damaged."
                )
            captions.rows_in(images)


def images_digest(images: ImageFiles) -> str:
    """16 hex digits that identify all images by id, bytes and order; every file is read."""
    return texts_digest([part for pair in images.content_hashes.items() for part in pair])


def texts_digest(parts: Sequence[str]) -> str:
    """16 hex digits that identify a list of texts; each is hashed with its length, so texts cannot run together."""
    out = hashlib.sha256()
    for part in parts:
        data = part.encode()
        out.update(len(data).to_bytes(8, "little"))
        out.update(data)
    return out.hexdigest()[:16]
