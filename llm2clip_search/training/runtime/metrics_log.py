"""Figures of a run as JSON lines and, where TensorBoard is installed, as its events."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llm2clip_search.base.files import replace_file


class MetricsLog:
    """``metrics.jsonl``: one object a step, ``{"step": 12, "loss": 3.1, ...}``; evaluations as ``dev/...``.

    Values have six digits; one that is no finite number is ``null``, since JSON has no other word for it.
    """

    def __init__(self, out: Path, *, resume_at: int) -> None:
        """Write to ``out/metrics.jsonl``; what was written behind ``resume_at`` is dropped.

        ``resume_at`` is the step of the checkpoint that a run goes on from, and steps behind it are written
        again. At 0 the run is new, and so is the file.
        """
        out.mkdir(parents=True, exist_ok=True)
        path = out / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if 0 < line["step"] <= resume_at]
        replace_file(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")
        self._events = _tensorboard(out, resume_at)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a line that survives the death of the process; ``step`` counts from 1."""
        self._file.write(json.dumps({"step": step, **{name: _short(value) for name, value in figures.items()}}) + "\n")
        self._file.flush()
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(name, value, step)
            # Steps before a checkpoint are not written again: what a kill takes from the buffer is lost.
            self._events.flush()

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, up to one that a kill cut short; none where there is no file."""
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
    """Six significant digits: a learning rate at the end of its cosine has none behind the point."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _tensorboard(out: Path, resume_at: int) -> Any:
    """A writer whose first event tells TensorBoard to forget steps behind ``resume_at``; None without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out), purge_step=resume_at + 1)


def headlines(names: Iterable[str]) -> list[str]:
    """Of figures named ``group/kind``, such as a language's recall: the first group's, and its first kind in all.

    >>> headlines(["en/mean", "en/recall@1", "de/mean", "de/recall@1"])
    ['en/mean', 'en/recall@1', 'de/mean']
    """
    named = list(names)
    group, slash, kind = named[0].rpartition("/") if named else ("", "", "")
    return [name for name in named if not slash or name.startswith(f"{group}/") or name.endswith(f"/{kind}")]
