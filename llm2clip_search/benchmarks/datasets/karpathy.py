"""Caption files shared by the data sets on Flickr's and COCO's photographs: Karpathy's JSON and ``IMAGE#n`` lines.

``dataset_flickr8k.json``, ``dataset_flickr30k.json`` and ``dataset_coco.json`` list all images with their split and
their sentences (Karpathy and Fei-Fei 2015, https://cs.stanford.edu/people/karpathy/deepimagesent).
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
"""Name of the split that contains every image."""

Triple = tuple[str, str, str]
"""Image id, caption, caption id."""

_NUMBERED = re.compile(r"(?P<image>[^#\s]+)#(?:[a-z]+#)?\d+(?:\s+(?P<caption>.*))?")
"""``IMAGE#n caption``, or ``IMAGE#zhc#n caption`` if the authors have a file per language."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The contents of caption files for one split, before its images are located."""

    files: Mapping[str, str]
    """Relative path by image id, in the order of the gallery."""
    captions: Captions

    @classmethod
    def of(cls, files: Mapping[str, str], triples: Iterable[Triple]) -> "Annotations":
        """From files and triples; captions are stripped and empty ones left out."""
        kept = [(image, text, caption_id) for image, caption, caption_id in triples if (text := caption.strip())]
        captions = Captions(
            texts=[text for _, text, _ in kept],
            image_ids=[image for image, _, _ in kept],
            caption_ids=[caption_id for _, _, caption_id in kept],
        )
        return cls(files=files, captions=captions)

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[str, str]]) -> "Annotations":
        """From ``(file name, caption)`` pairs without caption ids; the gallery is in order of first appearance."""
        captions = Captions.of([(image, text) for image, caption in pairs if (text := caption.strip())])
        return cls(files={image: image for image in captions.image_ids}, captions=captions)

    def only(self, images: Sequence[str]) -> "Annotations":
        """A selection of images, including images without captions, and their captions."""
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
        """Locate the images and build the set.

        Args:
            folders: folders that may contain the images; the first one that does is used.
            title: name of the data set, for errors.
            source: name of the caption file, for a note.
            expected_images: number of images behind published results, or 0 if unknown; a note says if this copy has
                a different number.

        Raises:
            CorpusError: there is no image, no such folder, or images are missing.
        """
        if not self.files:
            raise CorpusError(f"{source} has no images in split {split!r}.")
        images = images_in(_folder_of(folders, next(iter(self.files.values()))), self.files, what=title)
        found = [f"{len(self.captions):,} captions of {len(images):,} images, from {source}."]
        if undescribed := len(images) - len(set(self.captions.image_ids)):
            found.append(f"{undescribed:,} of these images have no caption: text retrieval counts them as missed.")
        if expected_images and len(images) != expected_images:
            found.append(f"Published results use {expected_images:,} images.")
        return RetrievalSet(
            name=name,
            split=split,
            images=images,
            captions={lang: self.captions},
            notes=(*found, *notes),
            folds=folds,
            judged=judged,
        )


def _folder_of(folders: Sequence[Path], first: str) -> Path:
    """The folder that contains the first image; otherwise the first folder that exists, for the error message."""
    existing = [folder for folder in folders if folder.is_dir()]
    if not existing:
        raise CorpusError(f"The folder of images is missing: there is no {' or '.join(map(str, folders))}.")
    return next((folder for folder in existing if (folder / first).is_file()), existing[0])


def read_karpathy(path: Path, split: str) -> Annotations:
    """A split of Karpathy's JSON, or ``all``; ``restval``, the rest of COCO's val2014, is part of train.

    The image id is COCO's if the file has it, otherwise the file name. The caption id is ``sentid``, which in COCO's
    file is COCO's annotation id; ``eccv_caption`` 0.1.0 uses the same ids.

    Raises:
        CorpusError: the file is missing, not UTF-8, not JSON or of another version, or has an image twice.
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
    """Lines of ``IMAGE#n caption``; the part before the white space is the caption id.

    Args:
        file_of: maps ``IMAGE`` to the image id, which is also the file name.

    Raises:
        CorpusError: the file is missing, not UTF-8, or a line has another form.
    """
    triples = []
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        match = _NUMBERED.fullmatch(line)
        if match is None:
            raise CorpusError(f"{path}, line {number:,}, is not 'IMAGE#n caption': {line[:60]!r}.")
        triples.append((file_of(match["image"]), match["caption"] or "", line.split(maxsplit=1)[0]))
    return Annotations.of({image: image for image, _, _ in triples}, triples)


def json_list(data: Any, key: str, path: Path) -> list[Any]:
    """The list under a key of a JSON object; ``path`` is for the error.

    Raises:
        CorpusError: there is no such list.
    """
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, list):
        raise CorpusError(f"{path} has no list {key!r}: it is another file or of another version.")
    return found


def add_image(files: dict[str, str], image: str, file: str, path: Path) -> None:
    """Add an image to the gallery.

    Raises:
        CorpusError: the image is already in it.
    """
    if image in files:
        raise CorpusError(f"{path} has image {image!r} twice, as {files[image]} and as {file}.")
    files[image] = file


def unknown_version(path: Path, where: str, error: Exception) -> CorpusError:
    """The error for an entry in which a field is missing or has an unexpected type."""
    problem = f"has no {error}" if isinstance(error, KeyError) else f"has an unexpected form ({error})"
    return CorpusError(f"{path}, {where}, {problem}: the file is of another version.")
