"""Random generators derived from the recipe's seed, the step and the purpose.

No generator outlives its use, so checkpoints need no generator state and a resumed run ends with the same weights.
"""

import zlib

import numpy as np
import torch


def generator(seed: int, step: int, use: str, *which: int) -> np.random.Generator:
    """A generator for one use in one step.

    Args:
        use: the purpose, such as ``augment``; different uses draw independently.
        which: distinguishes the items of a use, such as the rows of a batch.
    """
    return np.random.default_rng((seed, step, zlib.crc32(use.encode()), *which))


def seed_torch(seed: int, step: int, use: str, *which: int) -> None:
    """Seed torch's global generators, which dropout draws from, in the same way."""
    torch.manual_seed(int(generator(seed, step, use, *which).integers(2**62)))
