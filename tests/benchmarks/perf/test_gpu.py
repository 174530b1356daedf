"""The measurement of a vision tower on a GPU, run on the CPU, and samples of how busy GPUs are."""

import time
from pathlib import Path

import pytest
import torch

from llm2clip_search.benchmarks.perf import gpu, gpu_use
from llm2clip_search.benchmarks.perf.gpu_use import watched_gpus
from llm2clip_search.encoders.random_weights import write_random_weights


@pytest.mark.slow
def test_a_tower_is_a_share_of_the_matrix_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SIDE", 128)
    monkeypatch.setattr(gpu, "PRODUCTS", 2)
    weights = tmp_path / "s.safetensors"
    write_random_weights("ViT-S-32-alt", weights)
    speed = gpu.measure_gpu("ViT-S-32-alt", weights, images=4, rounds=1, device="cpu")
    # ViT-S/32 is stated to have 1.1 billion multiplications and additions, and a projection to 256 dimensions beside.
    assert speed.gflop == pytest.approx(2.2, abs=0.1)
    assert min(speed.tower, speed.loop, speed.matrix) > 0
    assert speed.share == pytest.approx(speed.tower * speed.gflop * 1e9 / (speed.matrix * 1e12))


def test_the_busiest_gpu_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_use, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(gpu_use, "INTERVAL", 0.001)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "utilization", lambda number: (10, 90)[number])
    with watched_gpus() as use:
        while len(use.samples) < 3:
            time.sleep(0.001)
    assert use.mean == pytest.approx(0.9)


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), RuntimeError("no driver"), AssertionError("no CUDA")])
def test_nothing_is_said_without_a_gpu(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> int:
        raise error

    monkeypatch.setattr(gpu_use, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    with watched_gpus() as use:
        pass
    assert use.mean is None
