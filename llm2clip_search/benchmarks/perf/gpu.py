"""Speed of a vision tower on a GPU as a share of the GPU's matrix rate, beside a plain loop:
``python -m llm2clip_search.benchmarks.perf.gpu ARCHITECTURE --weights FILE``.

All three run in turns. The loop is what a script does: open_clip's model in bfloat16, which gets batches of normalised
float32 pixels from the CPU and returns embeddings to it.
"""

import argparse
import json
import os
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from llm2clip_search.benchmarks.perf.timing import seconds_of, tower_rate
from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.dual import create_open_clip
from llm2clip_search.encoders.random_weights import write_random_weights

SIDE = 8192
"""Of the square matrices that are multiplied."""
PRODUCTS = 20
"""In one measurement."""


@dataclass(frozen=True, kw_only=True)
class GpuSpeed:
    """Medians over rounds. Images come from the CPU's memory, and vectors return to it."""

    gpu: str
    torch: str
    """Its version."""
    architecture: str
    batch_size: int
    matrix: float
    """TFLOP/s of products of two bfloat16 matrices of random values, `SIDE` x `SIDE`."""
    gflop: float
    """Billions of floating-point operations of the vision tower for an image; a product and its addition are two."""
    tower: float
    """Images per second of `Encoder.encode_pixels`."""
    loop: float
    """Images per second of the plain loop."""

    @property
    def share(self) -> float:
        """Of the matrix rate that `tower` amounts to."""
        return self.tower * self.gflop / self.matrix / 1000


def measure_gpu(architecture: str, weights: Path, *, images: int, rounds: int, device: str = "cuda") -> GpuSpeed:
    """Measure a vision tower of open_clip.

    Args:
        weights: checkpoint of the model.

    Raises:
        ModelError: as `load_encoder`.
    """
    encoder = load_encoder(f"open_clip:{architecture}/{weights}", device=device)
    size = encoder.preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (images, size.height, size.width, 3), dtype=np.uint8)
    model = create_open_clip(architecture, str(weights)).to(device, torch.bfloat16)
    normalised = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()
    a = torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16)
    b = torch.randn_like(a)

    def loop() -> None:
        with torch.inference_mode():
            for batch in torch.split(normalised, encoder.batch_size):
                model.encode_image(batch.to(device, torch.bfloat16)).float().cpu()

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, b)
        a[0, 0].item()  # waits for all of them

    taken: dict[str, list[float]] = {"matrix": [], "tower": [], "loop": []}
    for round_ in range(rounds + 1):
        rates = {
            "matrix": PRODUCTS * 2 * SIDE**3 / seconds_of(multiply) / 1e12,
            "tower": tower_rate(encoder, pixels, encoder.batch_size),
            "loop": images / seconds_of(loop),
        }
        for name, rate in rates.items():
            if round_:  # the first one warms up
                taken[name].append(rate)
    return GpuSpeed(
        gpu=torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        torch=torch.__version__,
        architecture=architecture,
        batch_size=encoder.batch_size,
        gflop=_operations(model.visual, normalised[:4].to(device, torch.bfloat16)) / 4e9,
        **{name: statistics.median(rates) for name, rates in taken.items()},
    )


def _operations(tower: Any, pixels: torch.Tensor) -> int:
    """Floating-point operations of a tower for a batch."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch does not count those of its operator
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            tower(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
    return int(counter.get_total_flops())


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture", help="of open_clip, such as ViT-L-14-336")
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint; if there is none, a random one")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if not given.weights.exists():
        write_random_weights(given.architecture, given.weights)
    speed = measure_gpu(given.architecture, given.weights, images=given.images, rounds=given.rounds)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        out.write(json.dumps(asdict(speed) | {"share": speed.share}) + "\n")


if __name__ == "__main__":
    main()
