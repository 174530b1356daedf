"""Caption files that the sets on Flickr's and COCO's photographs share: Karpathy's JSON, and lines of ``IMAGE#n``.

``dataset_flickr8k.json``, ``dataset_flickr30k.json`` and ``dataset_coco.json`` hold all images with their split
and their sentences (Karpathy and Fei-Fei 2015, https://cs.stanford.edu/people/karpathy/deepimagesent).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2clip_search.benchmarks.datasets.base import Captions, RetrievalSet
from llm2clip_search.benchmarks.datasets.folders import images_in, read_json, read_lines
from llm2clip_search.errors import CorpusError

ALL = "all"
"""The split of every image, where the files tell of several."""

Triple = tuple[str, str, str]
"""Image id, caption, caption id."""

_NUMBERED = re.compile(r"(?P<image>[^#\s]+)#(?:[a-z]+#)?\d+(?:\s+(?P<caption>.*))?")
"""``IMAGE#n caption``, or ``IMAGE#zhc#n caption`` where the authors have several languages, each in a file."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What caption files tell of one split, before its images are looked for."""

    files: Mapping[str, str]
    """By image id, the image's path below a folder; in the order of the gallery."""
    captions: Captions

    @classmethod
    def of(cls, files: Mapping[str, str], triples: Iterable[Triple]) -> "Annotations":
        """Captions are stripped, and empty ones left out."""
        kept = [(image, text, caption_id) for image, caption, caption_id in triples if (text := caption.strip())]
        captions = Captions(
            texts=[text for _, text, _ in kept],
            image_ids=[image for image, _, _ in kept],
            caption_ids=[caption_id for _, _, caption_id in kept],
        )
        return cls(files=files, captions=captions)

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[str, str]]) -> "Annotations":
        """Of ``(file name, caption)`` pairs whose captions have no ids; the gallery is in order of appearance."""
        captions = Captions.of([(image, text) for image, caption in pairs if (text := caption.strip())])
        return cls(files={image: image for image in captions.image_ids}, captions=captions)

    def only(self, images: Sequence[str]) -> "Annotations":
        """Those images, also ones that no caption tells of, and their captions."""
        wanted = set(images)
        rows = [row for row, image in enumerate(self.captions.image_ids) if image in wanted]
        return Annotations(
            files={image: self.files.get(image, image) for image in images}, captions=self.captions.take(rows)
        )

    def as_set(
        self,
        folders: Sequence[Path],
        *,
        name: str,
        title: str,
        split: str,
        lang: str,
        source: str,
        expected_images: int = 0,
        notes: Sequence[str] = (),
        folds: int = 0,
        judged: bool = False,
    ) -> RetrievalSet:
        """The set, with its images from one of some folders.

        ``source`` names the caption file in a note; ``expected_images`` is the number of images that others measure on.

        Raises:
            CorpusError: no image, no such folder, or images that are not in it.
        """
        if not self.files:
            raise CorpusError(f"{source} has no image of split {split!r}.")
        images = images_in(_folder_of(folders, next(iter(self.files.values()))), self.files, what=title)
        told = [f"{len(self.captions):,} captions of {len(images):,} images, from {source}."]
        if undescribed := len(images) - len(set(self.captions.image_ids)):
            told.append(f"{undescribed:,} of these images have no caption: text retrieval counts them as missed.")
        if expected_images and len(images) != expected_images:
            told.append(f"The published figures are over {expected_images:,} images.")
        return RetrievalSet(
            name=name,
            split=split,
            images=images,
            captions={lang: self.captions},
            notes=(*told, *notes),
            folds=folds,
            judged=judged,
        )


def _folder_of(folders: Sequence[Path], first: str) -> Path:
    """The folder that holds the first image; if none does, the first that is there, so that its lack is told."""
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        raise CorpusError(f"The images' folder is missing: there is no {' or '.join(map(str, folders))}.")
    return next((folder for folder in there if (folder / first).is_file()), there[0])


def read_karpathy(path: Path, split: str) -> Annotations:
    """A split of Karpathy's JSON, or ``all``; ``restval``, COCO's rest of val2014, belongs to train.

    An image's id is COCO's where the file has one, and otherwise its file name. A caption's id is ``sentid``,
    which in COCO's file is COCO's annotation id: ``eccv_caption`` 0.1.0 judges by the same numbers.

    Raises:
        CorpusError: the file is missing, no UTF-8, no JSON, of another version, or has an image twice.
    """
    files: dict[str, str] = {}
    triples: list[Triple] = []
    for image, file, sentences in _entries(path, split):
        add_image(files, image, file, path)
        triples += [(image, caption, caption_id) for caption, caption_id in sentences]
    return Annotations.of(files, triples)


def _entries(path: Path, split: str) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    for number, entry in enumerate(json_list(read_json(path), "images", path), 1):
        try:
            if split in (ALL, "train" if entry["split"] == "restval" else entry["split"]):
                name = str(entry["filename"])
                file = f"{entry['filepath']}/{name}" if "filepath" in entry else name
                sentences = [(str(sentence["raw"]), str(sentence["sentid"])) for sentence in entry["sentences"]]
                yield str(entry.get("cocoid", name)), file, sentences
        except (KeyError, TypeError) as error:
            raise unknown_version(path, f"image {number:,}", error) from error


def read_numbered(path: Path, file_of: Callable[[str], str]) -> Annotations:
    """Lines of ``IMAGE#n caption``; a caption's id is what stands before the blank.

    ``file_of`` makes an image's id of ``IMAGE``; it is also its file's name.

    Raises:
        CorpusError: the file is missing, no UTF-8, or a line has another form.
    """
    triples = []
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        match = _NUMBERED.fullmatch(line)
        if match is None:
            raise CorpusError(f"{path}, line {number:,}, is no 'IMAGE#n caption': {line[:60]!r}.")
        triples.append((file_of(match["image"]), match["caption"] or "", line.split(maxsplit=1)[0]))
    return Annotations.of({image: image for image, _, _ in triples}, triples)


def json_list(data: Any, key: str, path: Path) -> list[Any]:
    """The list of that key in a JSON file's object.

    Raises:
        CorpusError: there is none.
    """
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, list):
        raise CorpusError(f"{path} has no list {key!r}: it is another file, or of another version.")
    return found


def add_image(files: dict[str, str], image: str, file: str, path: Path) -> None:
    """Put an image's file into the gallery.

    Raises:
        CorpusError: it is there already.
    """
    if image in files:
        raise CorpusError(f"{path} has image {image!r} twice, as {files[image]} and as {file}.")
    files[image] = file


def unknown_version(path: Path, where: str, error: Exception) -> CorpusError:
    """What to say of an entry that lacks a field, or has another kind of value there."""
    lack = f"has no {error}" if isinstance(error, KeyError) else f"has another form ({error})"
    return CorpusError(f"{path}, {where}, {lack}: the file is of another version.")
