"""The checkpoint of a training run: one file, replaced atomically."""

import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from llm2clip_search.base.files import replaced_file
from llm2clip_search.errors import ModelError, first_line

Tensors = dict[str, torch.Tensor]
"""Tensors by parameter name."""
START_OVER = "Name another folder with --out, or delete the file to start over."


@dataclass(kw_only=True)
class TrainingCheckpoint:
    """The state of a run, except what is derived from ``(seed, step)``. Tensors are full, never shards."""

    inputs: str
    """Digest of the recipe and the data."""
    step: int
    """Number of completed steps."""
    weights: Tensors
    moments: dict[str, Tensors]
    """AdamW's state by parameter: ``step``, ``exp_avg``, ``exp_avg_sq``; parameters without gradients have none."""
    average: Tensors = field(default_factory=dict)
    """Moving average of the weights; empty if the recipe keeps none."""
    before: dict[str, float] = field(default_factory=dict)
    """Metrics before the first step; empty if they were not asked for."""
    best: dict[str, float] = field(default_factory=dict)
    """Metrics of the best evaluation so far; empty before the first."""
    best_step: int = 0
    """Completed steps at that evaluation."""
    stale: int = 0
    """Number of evaluations since."""
    best_weights: Tensors = field(default_factory=dict)
    """The weights of that evaluation."""

    def write(self, path: Path) -> None:
        """Write the checkpoint atomically: if the process dies, the previous file is intact.

        Raises:
            ModelError: the disk is full or not writable.
        """
        try:
            with replaced_file(path) as temporary, temporary.open("wb") as file:
                torch.save(vars(self), file)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
            raise ModelError(
                f"The checkpoint of step {self.step} cannot be written to {path} ({first_line(error)});"
                " the previous one is intact."
            ) from error

    @classmethod
    def read(cls, path: Path, inputs: str) -> "TrainingCheckpoint":
        """Read a checkpoint; its tensors are on the CPU.

        Raises:
            ModelError: the file is damaged, or its inputs differ from ``inputs``.
        """
        try:
            with zipfile.ZipFile(path) as archive:  # torch writes checksums but does not verify them
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} is damaged")
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many types for foreign files
            raise ModelError(f"{path} is not a readable checkpoint ({first_line(error)}).", hint=START_OVER) from error
        if not isinstance(saved, dict) or saved.keys() != {each.name for each in fields(cls)}:
            raise ModelError(f"{path} is not a checkpoint of this version.", hint=START_OVER)
        if saved["inputs"] != inputs:
            raise ModelError(
                f"{path} was written with another recipe or other data (digest {saved['inputs']}, now {inputs}).",
                hint=START_OVER,
            )
        return cls(**saved)
