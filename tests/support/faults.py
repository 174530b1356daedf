"""Faults that tests inject: power that is cut at any operation on the disk."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest


class PowerCutError(BaseException):
    """Not an Exception: no handler in the package may make it good."""


def cut_power_at(
    patch: pytest.MonkeyPatch, step: int, *, late: bool, error: Callable[[], BaseException] = PowerCutError
) -> list[int]:
    """Let the ``step``-th operation on the disk be the last: not done, or with ``late`` done. Counts operations.

    Args:
        error: what this one and all later ones raise.
    """
    done = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            done[0] += 1
            if done[0] > step and not late:
                raise error()
            result = real(*args, **options)
            if done[0] > step:
                raise error()
            return result

        return operation

    patch.setattr(os, "fsync", counted(os.fsync))
    for name in ("mkdir", "write_bytes", "rename", "replace"):
        patch.setattr(Path, name, counted(getattr(Path, name)))
    patch.setattr(np, "save", counted(np.save))
    patch.setattr(pq, "write_table", counted(pq.write_table))
    return done
