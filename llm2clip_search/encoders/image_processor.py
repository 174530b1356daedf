"""Read and write ``preprocessor_config.json``, the preprocessing of a transformers folder."""

import json
from pathlib import Path
from typing import Any, Literal

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.errors import ModelError

Interpolation = Literal["lanczos", "bilinear", "bicubic"]

_INTERPOLATIONS: dict[int, Interpolation] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers, which the file uses."""
_RESAMPLE = {name: number for number, name in _INTERPOLATIONS.items()}


def read_image_processor(folder: Path) -> PreprocessConfig:
    """The preprocessing that a folder's ``preprocessor_config.json`` describes.

    Raises:
        ModelError: there is no such file, or it does not state everything.
    """
    path = folder / "preprocessor_config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        size, crop = raw["size"], raw.get("crop_size")
        size = {"shortest_edge": size} if isinstance(size, int) else size
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        crops = raw.get("do_center_crop", crop is not None) and crop is not None
        target = crop if crops else size
        height, width = (target[side] if side in target else target["shortest_edge"] for side in ("height", "width"))
        shortest = size.get("shortest_edge", 0)
        return PreprocessConfig(
            height=height,
            width=width,
            resize="shortest" if shortest else "squash",
            resize_to=0 if shortest == min(height, width) else shortest,
            crop_rounding="down" if crops else "nearest",
            interpolation=_INTERPOLATIONS[raw.get("resample", 3)],
            mean=tuple(raw["image_mean"]),
            std=tuple(raw["image_std"]),
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} does not describe the preprocessing: {error!r}.") from error


def image_processor(preprocess: PreprocessConfig) -> dict[str, Any]:
    """Content of ``preprocessor_config.json`` for the preprocessing of `images.to_pixels` and the towers."""
    size = {"height": preprocess.height, "width": preprocess.width}
    crops = preprocess.resize == "shortest"
    return {
        "image_processor_type": "CLIPImageProcessor" if crops else "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocess.shortest} if crops else size,
        "resample": _RESAMPLE[preprocess.interpolation],
        **({"do_center_crop": True, "crop_size": size} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
