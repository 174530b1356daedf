"""A vision tower on an NVIDIA GPU, whose arithmetic waits neither for copies nor for Python.

Pixels go through pinned memory, so that the copy of one batch runs beside the arithmetic of another, if two threads
call the tower at once. A tower is some hundred kernels, and Python, which has other threads to decode images, takes
longer to start them than a small tower takes to run: a batch of a size that comes again is recorded as a CUDA graph,
which one call starts.
"""

import logging
from collections import Counter
from threading import Lock, local
from typing import Any

import numpy as np
import torch
from torch import nn

logger = logging.getLogger(__name__)

MOST_RECORDED = 4
"""Sizes of batches that are recorded; each holds its pixels and vectors, and they share what lies between."""
_WARM_UP = 3
"""Calls before a recording, in which libraries choose their kernels and get their memory."""


class CudaVision:
    """A vision tower as a function of pixels; two threads that call it at once keep the GPU busy."""

    def __init__(self, module: nn.Module, device: str) -> None:
        """``module`` is on ``device``. Its convolutions get the order of pixels that NVIDIA's are written for."""
        self._device = torch.device(device)
        self._module: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._stream = _new_stream(self._device)
        self._copies = local()
        self._turn = Lock()
        """Held while work is handed to the GPU, not while it runs."""
        self._pool = torch.cuda.graph_pool_handle()  # of the recordings, which follow each other
        self._calls: Counter[torch.Size] = Counter()
        self._recorded: dict[torch.Size, _Recording | None] = {}

    def __call__(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """uint8 ``[n, height, width, 3]`` by the name ``pixels``, to float32 ``[n, dim]``."""
        with torch.inference_mode(), torch.cuda.device(self._device):
            staged = torch.from_numpy(np.require(arrays["pixels"], requirements=["C", "W"])).pin_memory()
            copies = self._copy_stream()
            with torch.cuda.stream(copies):
                pixels = staged.to(self._device, non_blocking=True)
            with self._turn, torch.cuda.stream(self._stream):
                self._stream.wait_stream(copies)
                vectors = self._vectors(pixels)
                there = torch.empty(vectors.shape, dtype=torch.float32, pin_memory=True)
                there.copy_(vectors, non_blocking=True)
                done = self._stream.record_event()
            done.synchronize()  # other threads go on meanwhile
            # What a call allocates is free only now, so that no other stream can get it while it is in use.
            out: np.ndarray = there.numpy().copy()
        return out

    def _copy_stream(self) -> torch.cuda.Stream:
        if not hasattr(self._copies, "stream"):
            self._copies.stream = _new_stream(self._device)
        stream: torch.cuda.Stream = self._copies.stream
        return stream

    def _vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        shape = pixels.shape
        self._calls[shape] += 1
        if self._calls[shape] == 2 and len(self._recorded) < MOST_RECORDED:
            self._recorded[shape] = self._record(pixels)
        recording = self._recorded.get(shape)
        return self._module(pixels).float() if recording is None else recording(pixels)

    def _record(self, pixels: torch.Tensor) -> "_Recording | None":
        try:
            return _Recording(self._module, pixels, self._stream, pool=self._pool)
        except RuntimeError:  # a tower that looks at values on the CPU, or one without memory for this
            logger.debug("The vision tower runs without a recording of %s.", list(pixels.shape), exc_info=True)
            return None


def _new_stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


class _Recording:
    """The kernels of a call, for batches of one size."""

    def __init__(self, module: nn.Module, pixels: torch.Tensor, stream: torch.cuda.Stream, *, pool: Any) -> None:
        """Run and record ``module``, whose memory comes from ``pool``."""
        self._pixels = torch.empty_like(pixels).copy_(pixels)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            for _ in range(_WARM_UP):
                module(self._pixels)
            stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may copy pixels meanwhile.
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._vectors: torch.Tensor = module(self._pixels).float()

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Vectors that the next call overwrites."""
        self._pixels.copy_(pixels)
        self._graph.replay()
        return self._vectors
