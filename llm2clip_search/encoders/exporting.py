"""What has to be set in PyTorch while a tower is exported as ONNX."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from threading import Lock

_EXPORTER = Lock()
"""torch's exporter, and the warnings silenced around it, have global state, so one thread at a time may export."""


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """Quiet, with attention that ONNX has operators for, and in one thread at a time."""
    with _EXPORTER, _quiet_exporter(), _exportable_attention():
        yield


@contextlib.contextmanager
def _exportable_attention() -> Iterator[None]:
    """Switch off torch's fused attention, which open_clip's vision transformers run and which ONNX has no operator for.

    The switch is global, but what other threads run meanwhile only takes longer.
    """
    from torch.backends import mha

    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns about every traced constant; the comparison with PyTorch shows whether any matters."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
