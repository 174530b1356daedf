"""Safetensors files without a second copy: their headers, and their tensors as they lie in the mapped file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    import torch

_HEADER_LIMIT = 100_000_000
"""Bytes; a longer header is refused by the format's own reader too."""

_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""First bytes of what torch.save writes: a zip archive, formerly a bare pickle."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that are a transformers folder's weights: one, or those that its index names.

    Raises:
        ModelError: none, or an index that cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if (single := folder / "model.safetensors").exists():
        return [single]
    try:
        return [
            folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        ]
    except OSError as error:
        raise ModelError(f"{folder} holds neither model.safetensors nor an index of several such files.") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index} is no index of safetensors files: {error!r}.") from error


def tensor_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Name to shape of a file's tensors; only its header is read.

    Raises:
        ModelError: a file that is damaged or no safetensors.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(path.stat().st_size, _HEADER_LIMIT):
                raise ValueError(f"its header claims {length:,} bytes of {path.stat().st_size:,}")
            header = json.loads(file.read(length))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error


def mapped_tensors(
    path: Path, *, keep: Callable[[str], bool] = lambda name: True, dtype: "torch.dtype | None" = None
) -> dict[str, "torch.Tensor"]:
    """The tensors of a file whose names are kept.

    They lie in the mapped file: memory is taken where one is read, and no copy is made. Floats of another type
    than ``dtype`` are turned into it one by one, each from a mapping of its own, so that the pages of the file
    are given back before the next is read.

    Raises:
        ModelError: a file that is damaged or no safetensors.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys() if keep(name)}  # noqa: SIM118
        if dtype is not None:
            for name in [n for n, t in found.items() if t.is_floating_point() and t.dtype != dtype]:
                with safe_open(path, framework="pt") as file:
                    found[name] = file.get_tensor(name).to(dtype)
    except Exception as error:  # safetensors raises its own untyped error on a damaged file
        raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error
    return found


def refuse_pickle(path: Path) -> None:
    """Tell a pickle that is named ``.safetensors`` from the real thing, by its first bytes.

    Raises:
        ModelError: a pickle; the way out is in the message.
    """
    with path.open("rb") as file:
        start = file.read(9)
    # A safetensors file starts with eight bytes of its header's length, which may begin like a pickle, and a brace.
    if start.startswith(_PICKLE_STARTS) and not start.endswith(b"{"):
        raise ModelError(
            f"{path} is a pickle in spite of its name, and unpickling runs code; write its tensors with"
            " safetensors.torch.save_file, or rename an LLM2CLIP state dict to .pt and run"
            " 'llm2clip-search models convert' on it, which reads tensors alone."
        )
