"""Metrics of a run as JSON lines and, if TensorBoard is installed, as its events."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import replace_file


class MetricsLog:
    """``metrics.jsonl``: one object per step, ``{"step": 12, "loss": 3.1, ...}``; evaluations as ``dev/...``.

    Values have six significant digits; non-finite values are ``null``, because JSON has no notation for them.
    """

    def __init__(self, out: Path, *, resume_at: int) -> None:
        """Append to ``out/metrics.jsonl`` after dropping lines of steps later than ``resume_at``.

        Args:
            resume_at: step of the checkpoint that the run resumes from; 0 starts a new file.
        """
        out.mkdir(parents=True, exist_ok=True)
        path = out / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if resume_at and line["step"] <= resume_at]
        replace_file(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")
        self._events = _tensorboard(out, resume_at)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a line and flush it, so that it survives the process; ``step`` counts from 1."""
        self._file.write(json.dumps({"step": step, **{name: _short(value) for name, value in figures.items()}}) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)
            # A resumed run does not repeat the steps before its checkpoint, so buffered events would be lost.
            self._events.flush()

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl`` up to the first incomplete one; empty if the file does not exist."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _short(value: float) -> float | None:
    """Six significant digits, not six decimals: learning rates get very small at the end of the schedule."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _tensorboard(out: Path, resume_at: int) -> Any:
    """A writer that makes TensorBoard discard steps after ``resume_at``; None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out), purge_step=resume_at + 1)


def headlines(names: Iterable[str]) -> list[str]:
    """The most important of names like ``group/metric``: those without a group, and the first metric of all groups.

    >>> headlines(["mean", "coco/en/mean", "coco/en/recall@1", "flickr8k/de/mean", "flickr8k/de/recall@1"])
    ['mean', 'coco/en/mean', 'flickr8k/de/mean']
    """
    named = list(names)
    first = next((name.rpartition("/")[2] for name in named if "/" in name), "")
    return [name for name in named if "/" not in name or name.endswith(f"/{first}")]
