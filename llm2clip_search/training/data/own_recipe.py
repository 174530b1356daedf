"""Own data in a recipe: sources of images with captions, as an index takes them."""

from dataclasses import dataclass

from llm2clip_search.training.data.long_captions import LongCaptions

UNKNOWN = "und"
"""Language of captions of which nothing says it (ISO 639-2: undetermined). They count as one language."""


@dataclass(frozen=True, kw_only=True)
class OwnSource:
    """Images with captions: a folder, a table, shards, or what else an index can be made from."""

    source: str
    """The folder, file, pattern or address; a path is relative to the recipe file."""
    captions: str = ""
    """A table with captions of the images, any number of rows for each: CSV, TSV, JSON lines, Parquet or Arrow. If
    it is empty, captions are in the source itself: columns of its table, members of its shards, sidecars, or text files
    beside the images with one caption a line."""
    image: str = ""
    """Column of ``captions`` that names the images by path, file name or stem; empty if its name tells it."""
    columns: tuple[str, ...] = ()
    """Columns with captions or lists of them; empty for those of usual names, such as ``caption`` and ``captions``."""
    split: str = ""
    """Use only rows of ``captions`` with this value in their ``split`` column, or images that have it in such a column
    of the source if it holds its captions itself; empty uses all."""
    lang: str = ""
    """Language of the captions; if empty, a column ``lang`` or ``language`` says it, and captions without it count as
    one unknown language."""
    exclude: tuple[str, ...] = ()
    """Gitignore patterns of what is left out of a folder."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSource(OwnSource):
    """A set that is evaluated before the first step and afterwards: what the model has forgotten of it."""

    name: str
    """Names the set in logs and on the model card."""


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """What is trained on, and what the checkpoint is chosen by."""

    train: tuple[OwnSource, ...]
    """Equal files count once, with the captions of all of them."""
    val: tuple[OwnSource, ...] = ()
    """Validation images, which are never trained on, whatever their names; empty to take a share of ``train``."""
    val_share: float = 0.15
    """Share of the photographs of ``train`` that are for validation, if there is no ``val``."""
    seed: int = 0
    """Decides which ones."""
    near_duplicates: float = 0.0
    """Cosine of small versions of two images, from which a training image counts as a copy of one of validation or of a
    set for evaluation, and is not trained on. 0.98 finds copies of another size or quality; 0 only compares content."""
    long: LongCaptions | None = None
    """Makes long captions from short ones, for images with several; None for none."""

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("train names no source")
        if not 0.0 <= self.near_duplicates <= 1.0:
            raise ValueError(f"near_duplicates is {self.near_duplicates}, but it has to be between 0 and 1")
        if not 0.0 < self.val_share < 1.0:
            raise ValueError(f"val_share is {self.val_share}, but it has to be between 0 and 1")
