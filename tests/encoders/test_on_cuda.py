"""A vision tower on a GPU, beside the same module called as it is. Skipped on a machine without a GPU of NVIDIA's."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.on_cuda import CudaVision
from llm2clip_search.encoders.placement import Placement
from llm2clip_search.encoders.vision import VisionTower
from llm2clip_search.encoders.within_memory import WithinMemory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)


def tower(*last: nn.Module) -> VisionTower:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), *last)
    placement = Placement(device="cuda", precision="bfloat16")
    return VisionTower(backbone, nn.Linear(128, 16), PreprocessConfig(height=32, width=32)).place(placement).eval()


def plain(pixels: np.ndarray, *last: nn.Module) -> np.ndarray:
    with torch.inference_mode():
        vectors: np.ndarray = tower(*last)(torch.from_numpy(pixels).cuda()).float().cpu().numpy()
    return vectors


def test_batches_of_many_sizes_from_many_threads_are_embedded_as_by_the_module() -> None:
    """Some sizes come once, others are recorded and come again with other pixels; six are more than are recorded."""
    run = CudaVision(tower(), "cuda")
    draw = np.random.default_rng(1)
    batches = [PIXELS[first : first + size] for size in (1, 2, 4, 8, 16, 33) for first in draw.integers(0, 30, 12)]
    draw.shuffle(batches)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: run({"pixels": batch}), batches))
    for batch, vectors in zip(batches, found, strict=True):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, plain(batch), atol=0.01)  # cuDNN chooses kernels by the size of a batch


def test_a_tower_that_cannot_be_recorded_runs_all_the_same() -> None:
    class Looking(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features * (2.0 if features[0, 0].item() > 1e9 else 1.0)

    run = CudaVision(tower(Looking()), "cuda")
    for _ in range(4):
        np.testing.assert_allclose(run({"pixels": PIXELS[:8]}), plain(PIXELS[:8], Looking()), atol=0.01)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch alone takes more than the memory that torch may have, which is nearly all that it has already."""
    run = WithinMemory(CudaVision(tower(), "cuda"), "vision")
    expected = run({"pixels": PIXELS})
    many = np.repeat(PIXELS, 512, axis=0)
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + (256 << 20)
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    try:
        vectors = run({"pixels": many})
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(vectors, np.repeat(expected, 512, axis=0), atol=0.01)
