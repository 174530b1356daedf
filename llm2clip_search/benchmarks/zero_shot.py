"""Zero-shot classification of a labelled folder; a class is represented by the mean embedding of its prompts.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 3.1.4: each
template is filled with the name of the class and embedded; the unit vectors are averaged and normalised again. Metrics
and their keys are those of CLIP_benchmark (clip_benchmark/metrics/zeroshot_classification.py, version 1.6.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.progress import Progress, no_progress
from llm2clip_search.base.vectors import unit
from llm2clip_search.benchmarks.embedding import embed_captions
from llm2clip_search.benchmarks.labelled_folder import LabelledFolder
from llm2clip_search.benchmarks.results import pretrained_of
from llm2clip_search.corpora import FolderCorpus
from llm2clip_search.encoders import Encoder
from llm2clip_search.errors import CorpusError
from llm2clip_search.evaluation.metrics import ranks_of_best
from llm2clip_search.indexers.embed import embed_ahead

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "plain": ("a photo of a {}.",),
    "seven": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}
"""Templates by name; ``seven`` is the subset of their eighty templates that CLIP's authors selected for ImageNet
(notebooks/Prompt_Engineering_for_ImageNet.ipynb in openai/CLIP)."""
TOP = 5
"""The k of ``acc5``."""
THREADS = 4
"""Threads that decode ahead of the vision tower."""


@dataclass(frozen=True, kw_only=True)
class UnreadableImage:
    """An image that could not be decoded and is left out of all metrics."""

    path: str
    stage: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ZeroShotResult:
    """The result of one encoder on one labelled folder; the first six keys are CLIP_benchmark's."""

    dataset: str
    model: str
    pretrained: str
    """Tag of an open_clip model; empty for other models."""
    task: str = "zeroshot_classification"
    language: str
    """Language of the templates and class names."""
    metrics: Mapping[str, float | None]
    """See `classification_metrics`."""
    fingerprint: str
    """Fingerprint of the encoder."""
    images: int
    """Number of images that were measured."""
    classes: int
    templates: Sequence[str]
    recalls: Mapping[str, float]
    """Recall by subfolder, without subfolders in which all images are damaged."""
    failures: Sequence[UnreadableImage]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def classify(
    encoder: Encoder,
    folder: LabelledFolder,
    templates: Sequence[str],
    *,
    language: str = "en",
    batch_size: int = 32,
    progress: Progress = no_progress,
) -> ZeroShotResult:
    """Classify the images of a folder; damaged images are left out and listed in the result.

    Args:
        templates: prompts with ``{}`` for the name of the class.
        language: recorded in the result.

    Raises:
        CorpusError: no image can be decoded.
    """
    classes = class_vectors(encoder, folder.names, templates)
    vectors, readable, failures = _embed_files(encoder, folder, batch_size, progress)
    if not len(readable):
        raise CorpusError(f"None of {len(folder.files):,} images in {folder.root} can be decoded.")
    labels = folder.labels[readable]
    recalls = class_recalls(vectors, classes, labels)
    return ZeroShotResult(
        dataset=folder.root.resolve().name,
        model=encoder.name,
        pretrained=pretrained_of(encoder.name),
        language=language,
        metrics=classification_metrics(vectors, classes, labels),
        fingerprint=encoder.fingerprint,
        images=len(labels),
        classes=len(classes),
        templates=list(templates),
        recalls={folder.folders[label]: recall for label, recall in recalls.items()},
        failures=failures,
        notes=folder.notes,
    )


def class_vectors(encoder: Encoder, names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Mean of the prompts' unit embeddings per class, normalised again: float32 ``[n_classes, dim]``."""
    prompts = [template.replace("{}", name) for name in names for template in templates]
    return unit(embed_captions(encoder, prompts, cache=None).reshape(len(names), len(templates), -1).mean(axis=1))


def classification_metrics(images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``acc1``, ``acc5`` and ``mean_per_class_recall`` in [0, 1].

    With fewer than five classes ``acc5`` is None; CLIP_benchmark returns NaN, which JSON does not have. The mean is
    over classes that have images. Equal scores go to the class with the lower row.

    Args:
        images: float32 ``[n_images, dim]``, L2-normalised.
        classes: float32 ``[n_classes, dim]``, L2-normalised.
        labels: int64 ``[n_images]``, rows of ``classes``.
    """
    ranks = ranks_of_best(images, classes, labels, np.arange(len(classes)))
    return {
        "acc1": int((ranks == 0).sum()) / len(ranks),
        "acc5": int((ranks < TOP).sum()) / len(ranks) if len(classes) >= TOP else None,
        "mean_per_class_recall": float(np.mean(list(class_recalls(images, classes, labels).values()))),
    }


def class_recalls(images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Share of correctly classified images per class, by row; classes without images are left out.

    Arguments as for `classification_metrics`.
    """
    ranks = ranks_of_best(images, classes, labels, np.arange(len(classes)))
    return {int(label): float((ranks[labels == label] == 0).mean()) for label in np.unique(labels)}


def read_templates(name: str) -> tuple[str, ...]:
    """Templates by name from `TEMPLATES`, or from a file with one template per line.

    Raises:
        CorpusError: ``name`` is neither, the file is empty, or a line has no ``{}`` for the name of the class.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{name} is not one of {', '.join(TEMPLATES)} and cannot be read as a file of templates: {error}.",
            hint=f"--templates takes {', '.join(TEMPLATES)} or a text file with one template per line.",
        ) from error
    for number, line in enumerate(lines, 1):
        if line.strip() and "{}" not in line:
            raise CorpusError(f"{path}, line {number}, has no {{}} for the name of the class: {line.strip()!r}.")
    templates = tuple(line.strip() for line in lines if line.strip())
    if not templates:
        raise CorpusError(f"{path} contains no templates: one per line, with {{}} for the name of the class.")
    return templates


def _embed_files(
    encoder: Encoder, folder: LabelledFolder, batch_size: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray, list[UnreadableImage]]:
    """Unit vectors of the images that can be decoded, their rows in ``folder.files``, and the images that cannot."""
    vectors = [np.empty((0, encoder.dim), dtype=np.float32)]
    rows: list[int] = []
    failures: list[UnreadableImage] = []
    results = embed_ahead(
        FolderCorpus(folder.root),
        folder.files,
        encoder,
        batch_size=batch_size,
        threads=THREADS,
        ahead=2 * batch_size,
        drafts=False,
    )
    for row, image in enumerate(results):
        if image.error is not None:
            failures.append(UnreadableImage(path=image.item.uri, stage=image.error.stage, reason=str(image.error)))
        else:
            assert image.vector is not None, "what does not fail is embedded"
            rows.append(row)
            vectors.append(image.vector[None, :])
        progress("images", row + 1, len(folder.files), {})
    return np.concatenate(vectors), np.array(rows, dtype=np.int64), failures
