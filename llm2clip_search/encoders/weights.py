"""Safetensors files: their headers, and their tensors mapped into memory without a copy."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llm2clip_search.base.files import open_regular
from llm2clip_search.errors import ModelError

if TYPE_CHECKING:
    import torch

_HEADER_LIMIT = 100_000_000
"""Bytes; safetensors refuses longer headers too."""

_WITHIN = re.compile(r"[\w.+-]+(/[\w.+-]+)*")
"""A path within a folder, unless one of its parts leads upward."""
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""First bytes of files written by torch.save: a zip archive, or in old versions a bare pickle."""


def weight_files(folder: Path) -> list[Path]:
    """The weights files of a transformers folder: a single one, or those that its index names.

    Raises:
        ModelError: there is neither, or the index cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    if (single := folder / "model.safetensors").exists():
        return [single]
    try:
        return [folder / name for name in indexed_files(index)]
    except OSError as error:
        raise ModelError(f"{folder} holds neither model.safetensors nor an index of several such files.") from error


def indexed_files(index: Path) -> list[str]:
    """Names of the safetensors files that an index of a repository says that weights are in.

    Raises:
        OSError: it cannot be read.
        ModelError: it is no such index, or names a file outside of its folder.
    """
    with open_regular(index) as file:
        data = file.read(_HEADER_LIMIT)
    try:
        names = sorted(set(json.loads(data)["weight_map"].values()))
        if odd := [name for name in names if not _WITHIN.fullmatch(name) or ".." in name.split("/")]:
            raise ModelError(f"{index} names {odd[0]!r}, which is not a file of its folder.")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{index} is not an index of safetensors files: {error!r}.") from error
    return names


def tensor_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Shapes of a file's tensors by name; only the header is read.

    Raises:
        ModelError: the file is damaged, or not in safetensors format.
    """
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(path.stat().st_size, _HEADER_LIMIT):
                raise ValueError(f"its header claims {length:,} bytes of {path.stat().st_size:,}")
            header = json.loads(file.read(length))
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error


def mapped_tensors(
    path: Path, *, keep: Callable[[str], bool] = lambda name: True, dtype: "torch.dtype | None" = None
) -> dict[str, "torch.Tensor"]:
    """The tensors of a file whose names pass ``keep``, mapped into memory without a copy.

    Args:
        dtype: floating-point tensors of another dtype are converted, one at a time and each from a separate mapping,
            so that the file's pages are released before the next tensor is read.

    Raises:
        ModelError: the file is damaged, or not in safetensors format.
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
    """Refuse a pickle that is named ``.safetensors``, which its first bytes reveal.

    Raises:
        ModelError: the file is a pickle.
    """
    with open_regular(path) as file:
        start = file.read(9)
    # A safetensors file starts with the header's length in eight bytes, which may look like a pickle's, and a brace.
    if start.startswith(_PICKLE_STARTS) and not start.endswith(b"{"):
        raise ModelError(
            f"{path} is a pickle in spite of its name, and unpickling runs code; safetensors.torch.save_file writes its"
            " tensors as safetensors.",
            hint="If it is an LLM2CLIP state dict, rename it to .pt and convert it with 'llm2clip-search models"
            " convert', which reads nothing but tensors from it.",
        )
