"""How busy GPUs are while something else runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from threading import Event, Thread

from llm2clip_search.encoders.placement import has_nvidia_driver

INTERVAL = 0.1
"""Seconds between two samples; the driver's own period is between a sixth of a second and a second."""


@dataclass
class GpuUse:
    """Samples of the machine's GPUs, from 0 to 1: the share of the driver's last period in which a kernel ran."""

    samples: list[list[float]] = field(default_factory=list)
    """By time, then by GPU."""

    @property
    def mean(self) -> float | None:
        """Of the GPU that was busiest; None without one."""
        return max((fmean(each) for each in zip(*self.samples, strict=True)), default=None)


@contextmanager
def watched_gpus() -> Iterator[GpuUse]:
    """Sample the machine's NVIDIA GPUs in a thread while the context is open.

    Nothing is sampled on a machine without them, or without NVIDIA's package ``nvidia-ml-py``.
    """
    use, done = GpuUse(), Event()
    count = _gpus()

    def sample() -> None:
        import torch

        while not done.wait(INTERVAL):
            use.samples.append([torch.cuda.utilization(gpu) / 100 for gpu in range(count)])

    thread = Thread(target=sample, daemon=True)
    if count:
        thread.start()
    try:
        yield use
    finally:
        done.set()
        if count:
            thread.join()


def _gpus() -> int:
    """GPUs whose use can be asked for."""
    if not has_nvidia_driver():
        return 0
    import torch

    try:
        torch.cuda.utilization(0)
    except (ImportError, RuntimeError, AssertionError):  # no nvidia-ml-py, no GPU, a torch without CUDA
        return 0
    return torch.cuda.device_count()
