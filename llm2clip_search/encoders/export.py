"""Export a model for other programs: transformers' vision tower, either tower as ONNX, or an LLM2CLIP checkpoint.

An export is written to a temporary folder first, so that a full disk or a killed process leaves nothing behind.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from llm2clip_search.encoders.checkpoints.layouts import check_keys, openai_pixels, shapes_of
from llm2clip_search.encoders.checkpoints.write import write_checkpoint
from llm2clip_search.encoders.folders import output_folder
from llm2clip_search.encoders.image_processor import image_processor
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.placement import TowerName
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.towers import build_module, export_onnx
from llm2clip_search.errors import ModelError

Target = Literal["transformers", "onnx", "llm2clip"]

_ONNX = "--to onnx exports any model."


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an export."""

    folder: Path
    files: Mapping[str, int]
    """Size in bytes by file name."""
    embeds: str
    """One line that describes what was written."""


def export_model(model: Model, destination: Path, *, to: Target, tower: TowerName = "vision") -> Exported:
    """Write a model, or one of its towers, in a format that another program reads.

    Args:
        destination: folder to write; it must not exist.
        to: ``transformers`` writes the vision tower as a ``CLIPVisionModelWithProjection`` (``CLIPVisionModel`` reads
            the same folder), ``onnx`` one tower and a JSON file that describes its inputs, ``llm2clip`` a checkpoint
            in the published layout: both towers without the LLM.
        tower: the tower for ``onnx``.

    Raises:
        ModelError: the format cannot hold the model, the destination exists or cannot be written, or weights cannot
            be read.
    """
    with output_folder(destination) as folder:
        if to == "transformers":
            embeds = _export_transformers(model, folder)
        elif to == "onnx":
            embeds = _export_onnx(model, folder, tower)
        else:
            embeds = write_checkpoint(model, folder)
            pixels = model.config.vision.preprocess
            if pixels != openai_pixels(pixels.height):  # which readers of the layout assume
                _write_json(folder / "preprocessor_config.json", image_processor(pixels))
    files = {path.name: path.stat().st_size for path in sorted(destination.iterdir())}
    return Exported(folder=destination, files=files, embeds=embeds)


def _export_transformers(model: Model, folder: Path) -> str:
    """Write a `CLIPVisionModelWithProjection`, whose names (``vision_model.*``) every version of transformers reads."""
    vision = model.config.vision
    if vision.library != "transformers":
        raise ModelError(
            f"The vision tower of {model.reference} is {vision.architecture} of {vision.library}, but transformers'"
            " CLIPVisionModel holds only ViTs of OpenAI's architecture.",
            hint=_ONNX,
        )
    if model.config.querybank:
        raise ModelError(
            f"The towers of {model.reference} end in querybank normalisation, which transformers' CLIPVisionModel"
            " cannot hold.",
            hint=_ONNX,
        )
    options, tensors = _clip_tower(model)
    name = "CLIPVisionModelWithProjection" if "visual_projection.weight" in tensors else "CLIPVisionModel"
    dim = model.config.dim
    ensure_torchvision()
    import transformers

    config = transformers.CLIPVisionConfig(**{**options, "projection_dim": dim})
    with torch.device("meta"):
        wanted = shapes_of(getattr(transformers, name)(config))
    wanted = {key if key.startswith("vis") else f"vision_model.{key}": shape for key, shape in wanted.items()}
    check_keys(f"vision tower of {model.reference} as a {name}", wanted, tensors)
    dtype = str(tensors["vision_model.embeddings.class_embedding"].dtype).removeprefix("torch.")
    stated = {**config.to_diff_dict(), **options, "projection_dim": dim, "architectures": [name], "dtype": dtype}
    _write_json(folder / "config.json", {**stated, "model_type": "clip_vision_model"})
    _write_json(folder / "preprocessor_config.json", image_processor(vision.preprocess))
    _save_tensors(tensors, folder / "model.safetensors")
    return f"a {name}; its embeddings have {dim} dimensions and are not yet L2-normalised"


def _clip_tower(model: Model) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and tensors of a CLIP vision tower of transformers; names start with ``vision_model.``."""
    vision = model.config.vision
    if vision.weights is None:  # as they are on disk, in the precision they have there
        options, own = dict(vision.options), model.tensors("vision")
    else:
        module: Any = build_module(model, "vision")
        config = module.backbone.model.config
        if config.model_type != "clip_vision_model":
            raise ModelError(
                f"The vision tower of {model.reference} is a {config.model_type!r} model of transformers, but"
                " CLIPVisionModel holds only ViTs of OpenAI's architecture.",
                hint=_ONNX,
            )
        options, own = config.to_diff_dict(), module.state_dict()
    tensors = {}
    for name, tensor in own.items():
        inner = name.removeprefix("backbone.model.").removeprefix("vision_model.")
        if name.startswith("projection."):
            inner = f"visual_{name}"
        tensors[inner if inner.startswith("visual_projection.") else f"vision_model.{inner}"] = tensor
    bias = tensors.pop("visual_projection.bias", None)
    if bias is not None and bool(bias.any()):
        raise ModelError(
            f"The projection of {model.reference} has a bias, which CLIPVisionModelWithProjection cannot hold.",
            hint=_ONNX,
        )
    return options, tensors


def _export_onnx(model: Model, folder: Path, tower: TowerName) -> str:
    path = folder / f"{tower}.onnx"
    try:
        import onnxruntime

        cosine = export_onnx(model, tower, path)
        session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except ImportError as error:
        raise ModelError(
            "Export to ONNX needs ONNX Runtime, which is not installed.",
            hint="Install it: pip install 'llm2clip-search[cpu]'.",
        ) from error
    except (ModelError, OSError):  # no room, or no right to write
        raise
    except Exception as error:  # exporters fail in many ways
        raise ModelError(
            f"The {tower} tower of {model.reference} cannot be written as ONNX ({type(error).__name__}: {error})."
        ) from error
    config = model.config
    about: dict[str, Any] = {
        "model": model.reference,
        "fingerprint": model.identity.fingerprint,
        "tower": tower,
        "inputs": {node.name: {"type": node.type, "shape": node.shape} for node in session.get_inputs()},
        "output": {"name": "embedding", "type": "tensor(float)", "shape": ["n", config.dim], "l2_normalised": True},
        "min_cosine_to_torch": cosine,
    }
    if tower == "vision":
        about["preprocess"] = asdict(config.vision.preprocess) | {"normalised_inside": True}
    else:
        text = config.text
        about["tokens"] = {
            key: getattr(text, key) for key in ("max_tokens", "instruction", "suffix", "pooling", "attention")
        }
        if model.folder is not None and (tokenizer := model.folder / "tokenizer.json").exists():
            shutil.copyfile(tokenizer, folder / tokenizer.name)
    _write_json(folder / f"{tower}.json", about)
    return f"{tower} tower, {config.dim} dimensions, L2-normalised; cosine to torch at least {cosine:.6f}"


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
