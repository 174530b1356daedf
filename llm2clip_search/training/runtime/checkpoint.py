"""A run as it lies on disk: one file, which is always whole and always of one moment."""

import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from llm2clip_search.base.files import replaced_file
from llm2clip_search.errors import ModelError, first_line

Tensors = dict[str, torch.Tensor]
"""By parameter."""


@dataclass(kw_only=True)
class TrainingCheckpoint:
    """All that decides how a run goes on, but what ``(seed, step)`` says; tensors are whole, whatever the ranks."""

    inputs: str
    """Digest of recipe and data."""
    step: int
    """Steps done."""
    weights: Tensors
    moments: dict[str, Tensors]
    """The optimiser's state by parameter: ``step``, ``exp_avg``, ``exp_avg_sq``; none for one never touched."""
    average: Tensors = field(default_factory=dict)
    """The moving average; empty where none is kept."""
    best: dict[str, float] = field(default_factory=dict)
    """Figures of the best evaluation so far; empty before the first."""
    best_weights: Tensors = field(default_factory=dict)
    """What it evaluated."""

    def write(self, path: Path) -> None:
        """Whole or not at all, whenever the process dies.

        Raises:
            ModelError: no room, or no right, to write it.
        """
        try:
            with replaced_file(path) as temporary, temporary.open("wb") as file:
                torch.save(vars(self), file)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            raise ModelError(
                f"The checkpoint of step {self.step} cannot be written to {path} ({first_line(error)});"
                " the previous one is intact."
            ) from error

    @classmethod
    def read(cls, path: Path, inputs: str) -> "TrainingCheckpoint":
        """Tensors are on the CPU.

        Raises:
            ModelError: a file that is damaged, or of other inputs.
        """
        try:
            with zipfile.ZipFile(path) as archive:  # torch does not compare the checksums that it writes
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} is damaged")
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types on what it did not write
            raise ModelError(
                f"{path} is no readable checkpoint ({first_line(error)}); delete it to start anew."
            ) from error
        if not isinstance(saved, dict) or saved.keys() != {each.name for each in fields(cls)}:
            raise ModelError(f"{path} is no checkpoint of this version; delete it to start anew.")
        if saved["inputs"] != inputs:
            raise ModelError(
                f"{path} was written with another recipe or other data ({saved['inputs']}, now {inputs});"
                " name another folder with --out, or delete it."
            )
        return cls(**saved)
