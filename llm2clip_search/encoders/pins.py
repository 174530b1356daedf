"""Pins: what stands for the content of base weights and tokenizers in a model's fingerprint."""

import json
from pathlib import Path

from llm2clip_search.base.identity import json_sha256
from llm2clip_search.encoders.cache import model_file_sha256
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.sources import find, is_commit
from llm2clip_search.encoders.stated_sizes import read_config
from llm2clip_search.errors import ModelError

TOKENIZERS = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")
"""Patterns of the files that transformers makes a tokenizer of."""
_SAYS_NOTHING = ("_name_or_path", "transformers_version", "license")
"""Keys of a configuration of transformers that change no embedding."""
_FIRST_TOKENIZER = "d9421cde1d31c23ab99ee0be86562797187065bd441d99765da54999b6f215da"
"""SHA-256 of Gemma 3's tokenizer as `nano` has it. It came before tokenizers counted, and counts as none."""


def weights_pin(source: str | None, folder: Path | None, *, architecture: str, tokenizes: bool = False) -> str:
    """What stands for the content of base weights: a commit, a hash, or the tag that their library knows.

    Args:
        source: see `sources`; also a tag of open_clip, or the path of a checkpoint of it.
        folder: the model folder, where relative ``dir:`` paths start.
        architecture: the library's name of the model whose tag it may be.
        tokenizes: the tokenizer is that of the source.

    Raises:
        ModelError: a repository of the hub that is neither pinned by commit nor on this machine, or a folder whose
            ``config.json`` cannot be read.
    """
    if source is None:
        return ""
    scheme, _, rest = source.partition(":")
    if scheme == "pypi":
        return rest.partition("#")[2]
    if scheme == "hf":
        # A commit pins the content by itself, so that images can be indexed without fetching the LLM.
        revision = source.partition("@")[2]
        if is_commit(revision):
            return revision
        if (found := find(source)) is None:
            raise ModelError(
                f"{source} names no commit and is not on this machine, so the fingerprint of its model is unknown.",
                hint="'llm2clip-search models pull MODEL' fetches a model with its base weights.",
            )
        return found.revision
    if scheme == "dir":
        local = find(source, relative_to=folder)
        assert local is not None, "a path is there, or find raises"
        return _folder_pin(local.path, tokenizes=tokenizes) if local.path.is_dir() else model_file_sha256(local.path)
    return source if _is_tag(architecture, source) else model_file_sha256(Path(source))


def tokenizer_pin(text: TextConfig, folder: Path | None) -> str:
    """What stands for the tokenizer in a model folder; empty for none, and for those that did not count when released.

    These are `nano`'s, and one that a conversion copied from an LLM whose content is pinned: it follows from the pin.
    """
    path = folder / "tokenizer.json" if folder is not None and text.library == "llm" else None
    if path is None or not path.is_file():
        return ""
    found = model_file_sha256(path)
    is_pinned = text.weights is not None and not text.weights.startswith("dir:")
    return "" if found == _FIRST_TOKENIZER or (is_pinned and found == _converted(path)) else found


def _converted(tokenizer: Path) -> str | None:
    """The SHA-256 that a tokenizer had when a conversion wrote its folder; None for a folder of another origin."""
    try:
        written = json.loads((tokenizer.parent / "conversion.json").read_bytes())["to"][tokenizer.name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return str(written)


def _folder_pin(folder: Path, *, tokenizes: bool) -> str:
    """Hash of a folder's weights, of what its configuration says of them, and of its tokenizer's files if wanted."""
    names = ("*.safetensors", *(TOKENIZERS if tokenizes else ()))
    files = sorted({path for name in names for path in folder.glob(name) if path.is_file()})
    content: list[list[object]] = [[path.name, model_file_sha256(path)] for path in files]
    if (config := folder / "config.json").exists():
        said = {key: value for key, value in read_config(config).items() if key not in _SAYS_NOTHING}
        content.append([config.name, said])
    return json_sha256(content)


def _is_tag(architecture: str, source: str) -> bool:
    """True if open_clip takes a name for a tag; it then looks for no file.

    A path has a separator, or a suffix, which no tag has. A bare name is a tag unless a file has it, which is rare, and
    may then still be one: a file beside one's work does not change what a tag stands for.
    """
    path = Path(source)
    if not path.is_file():
        return True
    if path.name != source or path.suffix:
        return False
    from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    from open_clip.pretrained import get_pretrained_cfg

    return bool(get_pretrained_cfg(architecture, source))
