"""The checkpoint files in a folder: one that was published, or one that a training run wrote."""

import re
from pathlib import Path

from llm2clip_search.errors import ModelError

_MODEL_STATES = "*mp_rank_*_model_states.pt"
"""Files of DeepSpeed that hold a model, beside the shards of its optimiser."""
_TAG = re.compile(r"[\w-][\w.-]{0,99}")


def checkpoint_files(folder: Path) -> list[Path]:
    """The files whose tensors together are a checkpoint; safetensors are preferred to state dicts.

    A folder that DeepSpeed wrote (``checkpoints/epoch_4``) has its model's states in one file. Of the run's own folder,
    the epoch that its file ``latest`` names is taken.

    Raises:
        ModelError: the folder holds no checkpoint, more than one, or one that is spread over several ranks.
    """
    # PEFT updates in the same folder belong to the LLM, not to the checkpoint.
    if found := sorted(path for path in folder.glob("*.safetensors") if path.name != "adapter_model.safetensors"):
        whole = [path for path in found if path.name == "model.safetensors"]
        return whole or found
    saved = _saved_by_deepspeed(folder)
    if states := sorted(saved.glob(_MODEL_STATES)):
        if len(states) > 1 or states[0].name.startswith("zero_pp_rank_"):
            raise ModelError(
                f"{saved} holds a model that is spread over {len(states)} files of ranks ({states[0].name}).",
                hint="Join them with the script zero_to_fp32.py that DeepSpeed wrote beside them, and convert the"
                " result.",
            )
        return states
    # The EVA02 repositories hold both: the authors measured with the .pt, and the .bin holds only an image tower.
    for pattern in ("*.pt", "*.bin"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise ModelError(
                f"{folder} holds {len(found)} checkpoints ({', '.join(path.name for path in found[:5])}).",
                hint="Name one file instead of the folder.",
            )
        if found:
            return found
    raise ModelError(f"{folder} holds no *.safetensors, *.pt or *.bin.")


def _saved_by_deepspeed(folder: Path) -> Path:
    """The folder of the epoch that the file ``latest`` in a run's folder names; ``folder`` itself if there is none."""
    for saves in (folder, folder / "checkpoints"):
        if (saves / "latest").is_file():
            try:
                tag = (saves / "latest").read_text(encoding="utf-8").strip()
            except (OSError, ValueError):
                tag = ""
            if not _TAG.fullmatch(tag) or not (saves / tag).is_dir():
                raise ModelError(f"{saves / 'latest'} does not name a folder beside it.")
            return saves / tag
    return folder
