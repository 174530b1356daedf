"""Faults of a cluster's processes: what dies does so within an encoder or a corpus that a test sends there."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np

from llm2clip_search.corpora import FolderCorpus, Item
from tests.support.encoders import ColourEncoder


def die(markers: Path, *, times: int) -> None:
    """Kill this process, if fewer than so many have died for these markers."""
    for number in range(times):
        with suppress(FileExistsError):
            (markers / f"died-{number}").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


class DyingEncoder(ColourEncoder):
    """Its process dies at the first batches that hold an image."""

    def __init__(self, markers: Path, *, times: int) -> None:
        super().__init__()
        self.markers, self.times = markers, times

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        if len(pixels):
            die(self.markers, times=self.times)
        return super().encode_pixels(pixels)


class DyingCorpus(FolderCorpus):
    """A process dies that opens a certain file."""

    def __init__(self, root: Path, *, name: str, markers: Path, times: int) -> None:
        super().__init__(root)
        self.name, self.markers, self.times, self.driver = name, markers, times, os.getpid()

    def open(self, item: Item) -> bytes:
        if item.uri.endswith(self.name) and os.getpid() != self.driver:
            die(self.markers, times=self.times)
        return super().open(item)
