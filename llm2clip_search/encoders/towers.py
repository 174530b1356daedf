"""The two runtimes of a tower: PyTorch, and ONNX Runtime, for which a tower is compiled once per fingerprint.

In both, a tower is a function from named numpy arrays to float32 ``[n, dim]``. The vision tower's input is ``pixels``;
those of a text tower are the fields of its tokenizer's batch, in their order.
"""

import importlib.util
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from llm2clip_search.base.files import file_sha256, new_folder
from llm2clip_search.encoders.cache import cache_dir, model_file_sha256
from llm2clip_search.encoders.compiled import FORM, GRAPH, open_graph, open_tower, prepare, version, write_onnx
from llm2clip_search.encoders.exporting import exporting
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import Placement, Quantize, TowerName, place_tower, tower_parameters
from llm2clip_search.encoders.within_memory import WithinMemory
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

Runtime = Literal["auto", "torch", "onnx"]
Tower = Callable[[dict[str, np.ndarray]], np.ndarray]

FIXED_LENGTH = ("pixels", "clip_ids")
"""Inputs whose first axis is the only one that varies between batches."""
COMPILED_LIMIT = 500_000_000
"""Parameter count above which ``auto`` runs a tower in PyTorch: 2 GB, the limit of one ONNX file. Compiling an LLM of
8 billion parameters would need twice its 32 GB, in memory and on disk."""
_RECORD = "export.json"
"""Beside a compiled tower: what it was made from, how well it agrees with PyTorch, and checksums of its files."""
TRACED, COMPARED = 2, 3
"""Sizes of the batches that a tower is traced with and compared on: another one reveals a dimension that is fixed."""
QUANTISED = frozenset({"e6f9df36f2331e81"})
"""Fingerprints of models whose LLM has 8-bit weights on a CPU, because it was measured that recall keeps. The one is
`nano`, whose card has the figures."""
PIXELS_AT_ONCE = 32 * 240 * 240
"""Pixels of the images in one call of a compiled vision tower. Larger calls are not faster on a CPU, and hold all
of their activations: 32 images of 352 pixels take 1.8 GB in `nano`, 8 of them 0.6 GB."""
MIN_COSINE = 0.999
"""Lowest cosine between a compiled tower's vectors and PyTorch's at which the compiled tower is kept."""


def load_tower(model: Model, name: TowerName, *, runtime: Runtime, device: str, quantize: Quantize = "none") -> Tower:
    """Load one tower; the other one is not loaded.

    Runtime ``auto`` is ONNX Runtime on a CPU where it is installed, and PyTorch otherwise and for towers beyond
    `COMPILED_LIMIT`. On a GPU, weights have half precision, see `placement`.

    Raises:
        ModelError: ONNX Runtime is asked for but not installed, or for a GPU or a quantised LLM; or weights cannot be
            loaded.
    """
    placement = place_tower(model, name, device=device, quantize=quantize)
    device = placement.device
    if runtime == "onnx" and not _has_onnx():
        raise ModelError(
            "Runtime 'onnx' needs ONNX Runtime, which is not installed or cannot be imported.",
            hint="Install it: pip install 'llm2clip-search[cpu]'.",
        )
    if runtime == "onnx" and device != "cpu":
        raise ModelError(f"Runtime 'onnx' runs on the CPU, but the device is {device!r}.", hint="Add --device cpu.")
    if runtime == "onnx" and placement.quantize != "none":
        raise ModelError(
            f"Runtime 'onnx' cannot run an LLM quantised to {quantize}.",
            hint="Omit --quantize, or use --runtime torch.",
        )
    if not _is_compiled(placement, runtime):
        module = build_module(model, name, placement)
        if name == "vision" and device.startswith("cuda"):
            from llm2clip_search.encoders.on_cuda import CudaVision

            return WithinMemory(CudaVision(module, device), name)
        return WithinMemory(_torch_tower(module, device), name)
    # Counting the parameters of a GGUF file takes seconds, so it is done only where the result matters.
    is_open = runtime == "auto" and not _compiled(model, name).exists()
    if is_open and (tower_parameters(model, name) or 0) > COMPILED_LIMIT:
        return WithinMemory(_torch_tower(build_module(model, name, placement), device), name)
    try:
        tower = open_tower(compiled_path(model, name), prepared=name == "text")
        return WithinMemory(tower if name == "text" else _in_parts(tower), name)
    except ModelError:
        raise
    except Exception as error:  # exporters fail in many ways, and the tower still runs in PyTorch
        if runtime == "onnx":
            raise ModelError(
                f"The {name} tower of {model.reference} cannot be compiled for ONNX Runtime"
                f" ({type(error).__name__}: {error}).",
                hint="Use --runtime torch, which needs no compilation.",
            ) from error
        logger.warning("The %s tower does not compile for ONNX Runtime; PyTorch runs it instead.", name)
        logger.debug("The %s tower of %s does not compile.", name, model.reference, exc_info=True)
        return WithinMemory(_torch_tower(build_module(model, name), device), name)


def text_precision(model: Model, *, runtime: Runtime, device: str, quantize: Quantize = "none") -> str:
    """Name the precision of the text tower that `load_tower` gives for these arguments, without loading it.

    Returns:
        ``exact`` for float32; otherwise what is rounded, which changes embeddings. A tower that is compiled with 8-bit
        weights is named with the version of its form.

    Raises:
        ModelError: as `place_tower`.
    """
    placement = place_tower(model, "text", device=device, quantize=quantize)
    if placement.quantize != "none":
        return placement.quantize
    if placement.precision != "float32":
        return placement.precision
    is_compiled = _is_compiled(placement, runtime)
    return f"8bit-{version()}" if is_compiled and model.identity.fingerprint in QUANTISED else "exact"


def has_compiled_text(model: Model, *, runtime: Runtime, device: str, quantize: Quantize = "none") -> bool:
    """Whether `load_tower` has compiled the text tower for these arguments before, so that it only has to be opened.

    Raises:
        ModelError: as `place_tower`.
    """
    placement = place_tower(model, "text", device=device, quantize=quantize)
    return _is_compiled(placement, runtime) and _compiled(model, "text").exists()


def load_text_graph(model: Model, *, runtime: Runtime, device: str, quantize: Quantize = "none") -> Tower | None:
    """What `load_tower` gives for these arguments, computed by numpy: it takes no time to open, and longer to run.

    None if the text tower has not been compiled before, if numpy cannot compute it, or if a runtime is asked for. Where
    the compiled tower is rounded this one is, too, but less. ONNX Runtime is not imported, and it does not matter for
    which of its versions the tower is.

    Raises:
        ModelError: as `place_tower`.
        OSError: the files in the cache cannot be read.
    """
    placement = place_tower(model, "text", device=device, quantize=quantize)
    if runtime != "auto" or not _may_be_compiled(placement, runtime):
        return None
    found = _compiled_folder(model).glob(f"text-{FORM}-*/{GRAPH}")
    graph = next((path for path in found if _is_as_compiled(path.parent)), None)
    return None if graph is None else open_graph(graph)


def _is_compiled(placement: Placement, runtime: Runtime) -> bool:
    """Whether a tower with this placement is compiled, if it is small enough."""
    return _may_be_compiled(placement, runtime) and _has_onnx()


def _may_be_compiled(placement: Placement, runtime: Runtime) -> bool:
    return runtime != "torch" and placement.device == "cpu" and placement.quantize == "none"


@cache
def _has_onnx() -> bool:
    if not all(importlib.util.find_spec(package) for package in ("onnxruntime", "onnx")):
        return False
    try:
        import onnxruntime  # noqa: F401
    except (ImportError, OSError):  # a library that it needs is missing, or is another version
        logger.warning("ONNX Runtime is installed but cannot be imported; PyTorch takes its place.")
        logger.debug("ONNX Runtime cannot be imported.", exc_info=True)
        return False
    return True


def build_module(model: Model, name: TowerName, placement: Placement = Placement()) -> "nn.Module":
    """The tower as a torch module in evaluation mode, on the device and in the precision of ``placement``.

    Raises:
        ModelError: weights cannot be fetched, or do not fit the tower.
    """
    import torch

    config = model.config
    # The adaptor and the querybank stay float32: they are small, and the adaptor's input is already a mean.
    tensors = model.tensors(name, dtype=placement.dtype if name == "vision" else torch.float32)
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("querybank.")}
    bank = model.querybank(name)
    if bank and not config.querybank:
        raise ModelError(
            f"{model.reference} holds a querybank for its {name} tower, but its config.json sets no querybank strength."
        )
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

    return NormalisedTower(module, load_querybank(name, config, bank, device=placement.device)).eval()


def _torch_tower(module: "nn.Module", device: str) -> Tower:
    import torch

    def run(arrays: dict[str, np.ndarray]) -> np.ndarray:
        # torch does not accept read-only arrays, which Pillow returns; only those are copied.
        tensors = [torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays.values()]
        with torch.inference_mode():
            out: np.ndarray = module(*(t.to(device) for t in tensors)).float().cpu().numpy()
        return out

    return run


def _in_parts(tower: Tower) -> Tower:
    """A vision tower that is called with at most `PIXELS_AT_ONCE`, in parts of equal size."""

    def run(arrays: dict[str, np.ndarray]) -> np.ndarray:
        pixels = arrays["pixels"]
        images, height, width, _ = pixels.shape
        parts = min(images, -(-images * height * width // PIXELS_AT_ONCE))
        return np.concatenate([tower({"pixels": part}) for part in np.array_split(pixels, max(1, parts))])

    return run


def _compiled(model: Model, name: TowerName) -> Path:
    """Path of the compiled tower in the cache."""
    form = name if name == "vision" else f"{name}-{version()}"
    return _compiled_folder(model) / form / "tower.onnx"


def _compiled_folder(model: Model) -> Path:
    """Where the compiled towers of a model lie in the cache."""
    return cache_dir() / "onnx" / model.identity.fingerprint


def compiled_path(model: Model, name: TowerName) -> Path:
    """The compiled tower, for `compiled.open_tower`.

    If it is not in the cache, or its files there have changed, the tower is exported, prepared, and compared with
    PyTorch first.
    """
    path = _compiled(model, name)
    if path.exists():
        if _is_as_compiled(path.parent):
            return path
        logger.warning("The %s tower of %s was damaged in the cache; it is compiled again.", name, model.reference)
        shutil.rmtree(path.parent, ignore_errors=True)
    logger.info("Compiling the %s tower of %s for this CPU (once) ...", name, model.reference)
    try:
        with new_folder(path.parent) as folder:
            write = export_onnx if name == "vision" else _prepare
            cosine = write(model, name, folder / path.name)
            written = {each.name: file_sha256(each) for each in sorted(folder.iterdir())}
            record = {"model": model.reference, "min_cosine": cosine, "sha256": written}
            (folder / _RECORD).write_text(json.dumps(record))
    except OSError:
        if not path.exists():  # otherwise another process finished first, and its file is as good
            raise
    return path


def _is_as_compiled(folder: Path) -> bool:
    """True if the files of a compiled tower have the checksums that were written with them, if there were any."""
    try:
        written: dict[str, str] = json.loads((folder / _RECORD).read_bytes()).get("sha256", {})
        return all(model_file_sha256(folder / name) == sha256 for name, sha256 in written.items())
    except (OSError, ValueError, AttributeError):
        return False


def export_onnx(model: Model, name: TowerName, path: Path) -> float:
    """Write a tower as an ONNX file that any program can read, with its large tensors in a second one beside it.

    Returns:
        The lowest cosine between its vectors and PyTorch's.

    Raises:
        RuntimeError: it is below `MIN_COSINE`. The exporter raises further types.
    """
    module = build_module(model, name)
    _export(module, model, name, path)
    return _agreement(open_tower(path, prepared=False), module, model, name)


def _prepare(model: Model, name: TowerName, path: Path) -> float:
    """Write a tower in the form that opens fastest; returns the lowest cosine as `export_onnx` does."""
    module = build_module(model, name)
    with tempfile.TemporaryDirectory(dir=path.parents[1], prefix=f".{path.parent.name}-") as scratch:
        portable = Path(scratch) / path.name
        _export(module, model, name, portable)
        if model.identity.fingerprint in QUANTISED:
            try:
                return _prepared_agreement(portable, path, module, model, name, quantised=True)
            except Exception:  # an older ONNX Runtime, or weights that lose too much
                logger.debug("The %s tower of %s keeps its precision.", name, model.reference, exc_info=True)
        return _prepared_agreement(portable, path, module, model, name, quantised=False)


def _prepared_agreement(
    portable: Path, path: Path, module: "nn.Module", model: Model, name: TowerName, *, quantised: bool
) -> float:
    from llm2clip_search.encoders.numpy_graph import remove_graph

    prepare(portable, path, quantised=quantised)
    cosine = _agreement(open_tower(path, prepared=True), module, model, name)
    try:
        _agreement(open_graph(path.with_name(GRAPH)), module, model, name)
    except Exception:  # ONNX Runtime computes it, which takes a moment longer
        logger.debug("numpy does not compute the %s tower of %s.", name, model.reference, exc_info=True)
        remove_graph(path.with_name(GRAPH))
    return cosine


def _export(module: "nn.Module", model: Model, name: TowerName, path: Path) -> None:
    import onnx
    import torch

    traced = _sample(model, name, TRACED)
    example = tuple(map(torch.from_numpy, traced.values()))
    axes = {key: {0: "n"} if key in FIXED_LENGTH else {0: "n", 1: "length"} for key in traced}
    with exporting(), torch.inference_mode():
        # The TorchScript exporter takes 2.5 s for these towers where the dynamo exporter takes 23 s, and it needs no
        # onnxscript. The comparison with torch checks its output.
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
    write_onnx(onnx.load(path), path)


def _agreement(tower: Tower, module: "nn.Module", model: Model, name: TowerName) -> float:
    """The lowest cosine between the vectors of a tower and of the module that it was made from.

    Raises:
        RuntimeError: it is below `MIN_COSINE`.
    """
    compared = _sample(model, name, COMPARED)
    expected = _torch_tower(module, "cpu")(compared)
    cosine = float((tower(compared) * expected).sum(axis=1).min())
    if not cosine >= MIN_COSINE:  # NaN fails too
        raise RuntimeError(f"compiled vectors agree with torch's only to cosine {cosine:.5f}")
    return cosine


def _sample(model: Model, name: TowerName, count: int) -> dict[str, np.ndarray]:
    if name == "vision":
        size = model.config.vision.preprocess
        noise = np.random.default_rng(count).integers(0, 256, (count, size.height, size.width, 3))
        return {"pixels": noise.astype(np.uint8)}
    captions = ["A dog runs.", "Two children play in the shallow water of a lake.", "Night"][:count]
    return model.tokenizer()(captions)._asdict()
