"""Everything random about a step, drawn from the recipe's seed, the step and what it is for.

No generator lives longer than its use, so that a checkpoint needs no generator's state and a run that
was killed goes on to the same weights.
"""

import zlib

import numpy as np
import torch


def generator(seed: int, step: int, use: str, *which: int) -> np.random.Generator:
    """A generator for one use in one step; ``which`` tells apart the items of a use, such as an image's row."""
    return np.random.default_rng((seed, step, zlib.crc32(use.encode()), *which))


def seed_torch(seed: int, step: int, use: str, *which: int) -> None:
    """Seed torch's global generators, which dropout draws from, likewise."""
    torch.manual_seed(int(generator(seed, step, use, *which).integers(2**62)))
