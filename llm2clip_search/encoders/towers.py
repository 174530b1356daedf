"""The two runtimes of a tower: torch, and ONNX Runtime compiled once per fingerprint.

Both are a function from named numpy arrays to float32 ``[n, dim]``; an encoder does not care which.
The vision tower's is ``pixels``, a text tower's are the fields of its tokenizer's batch, in their order.
"""

import contextlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm2clip_search.base.files import new_folder
from llm2clip_search.encoders.cache import cache_dir
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import Placement, Quantize, TowerName, place_tower, tower_parameters
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

Runtime = Literal["auto", "torch", "onnx"]
Tower = Callable[[dict[str, np.ndarray]], np.ndarray]

FIXED_LENGTH = ("pixels", "clip_ids")
"""Inputs of which only the first axis varies from batch to batch."""
COMPILED_LIMIT = 500_000_000
"""Numbers of a tower beyond which ``auto`` leaves it to torch: 2 GB, which one ONNX file can hold. Compiling an LLM
of 8 billion would take twice its 32 GB in memory, and as much on disk."""
MAPPED_SIZE = 1 << 16
"""Bytes of a compiled tower's tensor from which it lies in a file of its own; smaller ones stay in the graph."""
_EXPORTER = Lock()
"""torch's exporter, and the warnings silenced around it, have global state: one thread at a time."""
MIN_COSINE = 0.999
"""A compiled tower is kept only if its vectors agree with torch's at least this well."""


def load_tower(model: Model, name: TowerName, *, runtime: Runtime, device: str, quantize: Quantize = "none") -> Tower:
    """One tower ready to run; the other one is not loaded.

    ``auto`` is ONNX Runtime on a CPU that has it, torch otherwise and for towers beyond `COMPILED_LIMIT`. On a GPU
    weights are halves, see `placement`.

    Raises:
        ModelError: ONNX asked for but missing, on a GPU, or quantised; weights that cannot be loaded.
    """
    placement = place_tower(model, name, device=device, quantize=quantize)
    device = placement.device
    has_onnx = all(importlib.util.find_spec(package) for package in ("onnxruntime", "onnx"))
    if runtime == "onnx" and not has_onnx:
        raise ModelError("--runtime onnx needs ONNX Runtime; install it with pip install 'llm2clip-search[cpu]'.")
    if runtime == "onnx" and device != "cpu":
        raise ModelError(f"--runtime onnx runs on the CPU, but the device is {device}; add --device cpu.")
    if runtime == "onnx" and placement.quantize != "none":
        raise ModelError(f"--runtime onnx has no {quantize} LLM; leave out --quantize, or say --runtime torch.")
    if runtime == "torch" or device != "cpu" or not has_onnx or placement.quantize != "none":
        return _torch_tower(build_module(model, name, placement), device)
    # Counting a GGUF's numbers takes seconds: only where the answer is wanted.
    is_open = runtime == "auto" and not _compiled(model, name).exists()
    if is_open and (tower_parameters(model, name) or 0) > COMPILED_LIMIT:
        return _torch_tower(build_module(model, name, placement), device)
    try:
        return _onnx_tower(compiled_path(model, name))
    except ModelError:
        raise
    except Exception as error:  # exporters fail in many ways; the tower itself still runs
        if runtime == "onnx":
            raise ModelError(
                f"The {name} tower of {model.reference} cannot be compiled for ONNX Runtime"
                f" ({type(error).__name__}: {error}); --runtime torch runs it as it is."
            ) from error
        logger.warning("The %s tower does not compile for ONNX Runtime; PyTorch runs it instead.", name)
        logger.debug("The %s tower of %s does not compile.", name, model.reference, exc_info=True)
        return _torch_tower(build_module(model, name), device)


def build_module(model: Model, name: TowerName, placement: Placement = Placement()) -> "nn.Module":
    """The tower as a torch module where ``placement`` puts it, in evaluation mode.

    Raises:
        ModelError: weights that cannot be fetched or do not fit.
    """
    import torch

    config = model.config
    # What stands behind the LLM is small, and its input is a sum already: it stays float32. So does a querybank.
    tensors = model.tensors(name, dtype=placement.dtype if name == "vision" else torch.float32)
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("querybank.")}
    bank = model.tensors(f"{name}.querybank", dtype=torch.float32)
    if bank and not config.querybank:
        raise ModelError(f"{model.reference} holds a querybank of its {name} tower, but config.json says it has none.")
    module: nn.Module
    if name == "vision":
        from llm2clip_search.encoders.vision import build_vision_tower

        module = build_vision_tower(
            config.vision, dim=config.tower_dim, folder=model.folder, tensors=tensors, placement=placement
        )
    else:
        from llm2clip_search.encoders.text import build_text_tower

        module = build_text_tower(
            config.text, dim=config.tower_dim, folder=model.folder, tensors=tensors, placement=placement
        )
    if not config.querybank:
        return module
    from llm2clip_search.encoders.querybank import NormalisedTower, load_querybank

    bank = {key.removeprefix("querybank."): tensor for key, tensor in bank.items()}
    return NormalisedTower(module, load_querybank(name, config, bank, device=placement.device)).eval()


def _torch_tower(module: "nn.Module", device: str) -> Tower:
    import torch

    def run(arrays: dict[str, np.ndarray]) -> np.ndarray:
        # torch refuses read-only arrays, which Pillow hands out; ascontiguousarray copies those alone.
        tensors = [torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays.values()]
        with torch.inference_mode():
            out: np.ndarray = module(*(t.to(device) for t in tensors)).float().cpu().numpy()
        return out

    return run


def _onnx_tower(path: Path) -> Tower:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = [node.name for node in session.get_inputs()]

    def run(arrays: dict[str, np.ndarray]) -> np.ndarray:
        out: np.ndarray = session.run(None, {name: arrays[name] for name in inputs})[0]
        return out

    return run


def _compiled(model: Model, name: TowerName) -> Path:
    """Where the tower's ONNX file lies once it is made."""
    return cache_dir() / "onnx" / model.identity.fingerprint / name / "tower.onnx"


def compiled_path(model: Model, name: TowerName) -> Path:
    """The tower's ONNX file, exported and compared with torch when it is not in the cache yet."""
    path = _compiled(model, name)
    if path.exists():
        return path
    logger.info("Compiling the %s tower of %s for this CPU (once) ...", name, model.reference)
    try:
        with new_folder(path.parent) as folder:
            cosine = _export(model, name, folder / path.name)
            (folder / "export.json").write_text(json.dumps({"model": model.reference, "min_cosine": cosine}))
    except OSError:
        if not path.exists():  # otherwise another process finished first, and its file is as good
            raise
    return path


def _export(model: Model, name: TowerName, path: Path) -> float:
    """Write the ONNX file; returns the lowest cosine between its vectors and torch's."""
    import torch

    module = build_module(model, name)
    # Traced and judged on different shapes, so that a dimension frozen by tracing shows.
    traced, judged = (_sample(model, name, count) for count in (2, 3))
    example = tuple(map(torch.from_numpy, traced.values()))
    axes = {key: {0: "n"} if key in FIXED_LENGTH else {0: "n", 1: "length"} for key in traced}
    with _EXPORTER, _quiet_exporter(), torch.inference_mode():
        # The TorchScript exporter: on these towers it takes 2.5 s where the dynamo one takes 23 s, and it
        # needs no onnxscript; the check below holds it to torch's own output.
        torch.onnx.export(
            module,
            example,
            str(path),
            input_names=list(traced),
            output_names=["embedding"],
            dynamic_axes={**axes, "embedding": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )
    _map_weights(path)
    expected = _torch_tower(module, "cpu")(judged)
    cosine = float((_onnx_tower(path)(judged) * expected).sum(axis=1).min())
    if not cosine >= MIN_COSINE:  # NaN fails too
        raise RuntimeError(f"compiled vectors agree with torch's only to cosine {cosine:.5f}")
    return cosine


def _map_weights(path: Path) -> None:
    """Move large tensors to a file beside, which ONNX Runtime maps: of a table of embeddings only the rows that
    a caption names are read, and no number is parsed."""
    import onnx

    onnx.save_model(
        onnx.load(path),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=MAPPED_SIZE,
        convert_attribute=False,
    )


def _sample(model: Model, name: TowerName, count: int) -> dict[str, np.ndarray]:
    if name == "vision":
        size = model.config.vision.preprocess
        noise = np.random.default_rng(count).integers(0, 256, (count, size.height, size.width, 3))
        return {"pixels": noise.astype(np.uint8)}
    captions = ["A dog runs.", "Two children play in the shallow water of a lake.", "Night"][:count]
    return model.tokenizer()(captions)._asdict()


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of every traced constant; the comparison with torch judges what matters."""
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
