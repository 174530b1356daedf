"""Makes ``import torchvision`` work with a CPU build of torch.

The package index serves torchvision built for CUDA. With CPU torch its C extension does not load, so that
``torchvision::nms`` and ``torchvision::qnms`` are never registered, and the import fails at the fake kernels that
torchvision declares for them; timm, open_clip and transformers then fail too. Declaring the two operators, which only
detectors call, lets the rest of torchvision be imported. A torchvision that works is left alone.
"""

import sys
from functools import cache
from typing import Any

_DECLARED: list[Any] = []  # a torch Library removes its definitions when it is garbage-collected


@cache
def ensure_torchvision() -> None:
    """Make torchvision importable; call this before importing timm, open_clip or models of transformers."""
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
        # The failed import leaves part of the package in sys.modules, which would break the next one.
        for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        import torchvision  # noqa: F401
    except ImportError:
        return  # not installed: timm and open_clip report that themselves
