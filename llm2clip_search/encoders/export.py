"""A model of this project for others: transformers' vision tower, ONNX of either tower, LLM2CLIP's published layout.

What is written gets its name when it is complete: a full disk or a stopped process leaves nothing behind.
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
from llm2clip_search.encoders.towers import build_module, compiled_path
from llm2clip_search.errors import ModelError

Target = Literal["transformers", "onnx", "llm2clip"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote."""

    folder: Path
    files: Mapping[str, int]
    """Name to size, bytes."""
    embeds: str
    """One line on what it computes."""


def export_model(model: Model, destination: Path, *, to: Target, tower: TowerName = "vision") -> Exported:
    """Write a model, or one of its towers, in the form that another program reads.

    Args:
        destination: folder to write; it must not exist.
        to: ``transformers`` is the vision tower as ``CLIPVisionModelWithProjection`` (``CLIPVisionModel`` reads the
            same folder), ``onnx`` one tower and a JSON file that tells its inputs, ``llm2clip`` both towers without
            the LLM under the published names.
        tower: which one, for ``onnx``.

    Raises:
        ModelError: a model that has no such form, a destination that exists or cannot be written, weights that cannot
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
            if pixels != openai_pixels(pixels.height):  # which readers of the layout take for granted
                _write_json(folder / "preprocessor_config.json", image_processor(pixels))
    files = {path.name: path.stat().st_size for path in sorted(destination.iterdir())}
    return Exported(folder=destination, files=files, embeds=embeds)


def _export_transformers(model: Model, folder: Path) -> str:
    """`CLIPVisionModelWithProjection`: its names (``vision_model.*``) are those that every version reads."""
    vision = model.config.vision
    if vision.library != "transformers":
        raise ModelError(
            f"The vision tower of {model.reference} is {vision.architecture} of {vision.library}, no ViT in OpenAI's"
            " layout, so transformers' CLIPVisionModel cannot hold it; --to onnx can."
        )
    if model.config.querybank:
        raise ModelError(
            f"The towers of {model.reference} end in a querybank, which transformers' CLIPVisionModel has no place for;"
            " --to onnx keeps it."
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
    """Configuration and tensors of a CLIP vision tower of transformers, names beginning ``vision_model.``."""
    vision = model.config.vision
    if vision.weights is None:  # as they are on disk, in the precision that they have there
        options, own = dict(vision.options), model.tensors("vision")
    else:
        module: Any = build_module(model, "vision")
        config = module.backbone.model.config
        if config.model_type != "clip_vision_model":
            raise ModelError(
                f"The vision tower of {model.reference} is a {config.model_type!r} model of transformers, no ViT in"
                " OpenAI's layout, so CLIPVisionModel cannot hold it; --to onnx can."
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
            f"The projection of {model.reference} has a bias, which CLIPVisionModelWithProjection has no place for;"
            " --to onnx keeps it."
        )
    return options, tensors


def _export_onnx(model: Model, folder: Path, tower: TowerName) -> str:
    try:
        import onnxruntime

        compiled = compiled_path(model, tower)
        session: Any = onnxruntime.InferenceSession(str(compiled), providers=["CPUExecutionProvider"])
    except ImportError as error:
        raise ModelError("--to onnx needs ONNX Runtime; install it with pip install 'llm2clip-search[cpu]'.") from error
    except ModelError:
        raise
    except Exception as error:  # exporters fail in many ways
        raise ModelError(
            f"The {tower} tower of {model.reference} cannot be written as ONNX ({type(error).__name__}: {error})."
        ) from error
    for path in compiled.parent.iterdir():  # large tensors lie in a file of their own, named in the first
        if path.name != "export.json":
            shutil.copyfile(path, folder / (f"{tower}.onnx" if path == compiled else path.name))
    checked = json.loads((compiled.parent / "export.json").read_text(encoding="utf-8"))
    config = model.config
    about: dict[str, Any] = {
        "model": model.reference,
        "fingerprint": model.identity.fingerprint,
        "tower": tower,
        "inputs": {node.name: {"type": node.type, "shape": node.shape} for node in session.get_inputs()},
        "output": {"name": "embedding", "type": "tensor(float)", "shape": ["n", config.dim], "l2_normalised": True},
        "min_cosine_to_torch": checked["min_cosine"],
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
    return (
        f"{tower} tower, {config.dim} dimensions, L2-normalised; cosine to torch at least {checked['min_cosine']:.6f}"
    )


def _save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
