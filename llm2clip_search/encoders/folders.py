"""Model folders and exports that are either complete or absent."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm2clip_search.base.files import new_folder
from llm2clip_search.errors import ModelError

TERMS = ("LICEN[CS]E*", "NOTICE*", "*TERMS*")


def copy_terms(source: Path, destination: Path) -> None:
    """Copy the files of a model folder that have to be passed on with what is made from the model: its licences."""
    for terms in (each for pattern in TERMS for each in source.glob(pattern)):
        shutil.copyfile(terms, destination / terms.name)


def refuse_existing(destination: Path) -> None:
    """Raises ModelError if a folder that is to be written exists."""
    if destination.exists():
        raise ModelError(f"{destination} exists already.", hint="Name a folder that does not exist.")


@contextmanager
def output_folder(destination: Path) -> Iterator[Path]:
    """A temporary folder that the caller fills; it takes the name ``destination`` on success.

    Raises:
        ModelError: the destination exists, which leaves it untouched, or cannot be written, which leaves nothing of it.
    """
    from safetensors import SafetensorError

    refuse_existing(destination)
    try:
        with new_folder(destination) as folder:
            yield folder
    except (OSError, SafetensorError) as error:  # on a full disk safetensors raises an error of its own
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else str(error)
        raise ModelError(f"{destination} could not be written: {reason}; nothing of it is left.") from error
