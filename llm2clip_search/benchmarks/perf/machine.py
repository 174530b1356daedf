"""What is said of the machine beside figures that depend on it."""

import os
import platform
from pathlib import Path
from typing import Any

from llm2clip_search.base.memory import physical_bytes


def describe_machine() -> dict[str, Any]:
    """``processor``, ``cores`` that this process may use, ``memory_bytes`` if known, ``system`` and ``python``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_bytes": physical_bytes() or None,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Its name, as Linux states it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor()
