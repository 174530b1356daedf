"""The one place that makes ``import torchvision`` work beside a CPU build of torch.

The package index serves torchvision built for CUDA. Beside CPU torch its C extension does not
load, so ``torchvision::nms`` and ``torchvision::qnms`` are never registered and the import fails at
the fake kernels it declares for them; timm, open_clip and transformers fail with it. Declaring the
two operators (never called here: no detector runs) lets the rest of torchvision import. A working
torchvision is left alone.
"""

import sys
from functools import cache
from typing import Any

_DECLARED: list[Any] = []  # a torch Library undoes its definitions when collected


@cache
def ensure_torchvision() -> None:
    """Make torchvision importable; call before importing timm, open_clip or transformers models."""
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            signature = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(signature)  # type: ignore[no-untyped-call]
        _DECLARED.append(library)
        # The failed import left half of the package behind; the second one must start afresh.
        for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        import torchvision  # noqa: F401
    except ImportError:
        return  # not installed: timm and open_clip say so themselves, with their own advice
