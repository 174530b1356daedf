"""Folders that a training run of LLM2CLIP's repository leaves behind, with and without DeepSpeed."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm2clip_search.encoders.checkpoints.layouts import read_checkpoint
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import eva02_tensors, save_openai
from tests.support.commands import RunCli


def save_with_deepspeed(saves: Path, epoch: int, *, scale: float = 1.0) -> Path:
    """What DeepSpeed's ``save_checkpoint`` writes with ZeRO stage 1 on two GPUs: the model's states with the state of
    its engine, a shard of the optimiser for each GPU, the newest tag, and the script that joins shards."""
    folder = saves / f"epoch_{epoch}"
    folder.mkdir(parents=True)
    tensors = {name: (scale * tensor).half() for name, tensor in eva02_tensors().items()}
    state = {
        "module": OrderedDict(tensors),
        "buffer_names": [name for name in tensors if ".freqs_" in name],
        "optimizer": None,
        "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in tensors.items())],
        "frozen_param_shapes": None,
        "shared_params": {},
        "lr_scheduler": None,
        "skipped_steps": 3,
        "global_steps": 100,
        "dp_world_size": 2,
        "mp_world_size": 1,
        "ds_config": {"train_batch_size": 1024, "zero_optimization": {"stage": 1}},
        "ds_version": "0.15.4",
        "epoch": epoch,
    }
    torch.save(state, folder / "mp_rank_00_model_states.pt")
    for rank in range(2):
        shard = {"optimizer_state_dict": {"single_partition_of_fp32_groups": [torch.zeros(3)]}, "ds_version": "0.15.4"}
        torch.save(shard, folder / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (saves / "latest").write_text(f"epoch_{epoch}")
    (saves / "zero_to_fp32.py").write_text("raise SystemExit")
    return folder


def test_the_models_states_are_taken_from_among_the_optimisers_shards(tmp_path: Path) -> None:
    """From the folder of an epoch, the folder of all epochs (the newest), and the run's, which has others beside."""
    run = tmp_path / "logs" / "T_vitl336"
    first = save_with_deepspeed(run / "checkpoints", 1, scale=2.0)
    newest = save_with_deepspeed(run / "checkpoints", 2)
    (run / "tensorboard").mkdir()
    (run / "params.txt").write_text("lr: 1e-05")
    for folder in (newest, run / "checkpoints", run):
        found = read_checkpoint(folder)
        assert list(found.files) == ["mp_rank_00_model_states.pt"]
        assert found.tensors.keys() == eva02_tensors().keys()
        assert all(torch.equal(found.tensors[name], tensor.half()) for name, tensor in eva02_tensors().items())
    assert read_checkpoint(first).tensors["logit_scale"] == (2 * eva02_tensors()["logit_scale"]).half()


def test_the_command_converts_a_run(run_cli: RunCli, tmp_path: Path, llama: Path) -> None:
    save_with_deepspeed(tmp_path / "run" / "checkpoints", 4)
    done = run_cli("models", "convert", "run", "model", "--llm", f"dir:{llama}")
    assert (done.returncode, done.stderr) == (0, "")
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(written["vision.projection.weight"], eva02_tensors()["visual.head.weight"].half())


def test_epochs_without_deepspeed_are_named_one_by_one(tmp_path: Path) -> None:
    for epoch in (1, 2):
        torch.save({"epoch": epoch, "state_dict": eva02_tensors()}, tmp_path / f"epoch_{epoch}.pt")
    with pytest.raises(ModelError, match=r"holds 2 checkpoints \(epoch_1\.pt, epoch_2\.pt\)") as caught:
        read_checkpoint(tmp_path)
    assert "one file" in caught.value.hint


@pytest.mark.parametrize("tag", ["", "..", "../../etc", "epoch_9", "a/b", "epoch_1\nepoch_2", "\x00"])
def test_a_tag_names_a_folder_beside_it_or_nothing(tmp_path: Path, tag: str) -> None:
    save_with_deepspeed(tmp_path, 1)
    (tmp_path / "latest").write_text(tag)
    with pytest.raises(ModelError, match="latest does not name a folder beside it"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"),
        ("zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt"),
        ("zero_pp_rank_0_mp_rank_00_model_states.pt",),
    ],
)
def test_a_model_in_shards_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    """Of model parallelism, and of ZeRO stage 3, whose states of rank 0 have empty tensors."""
    for name in names:
        torch.save({"module": {}}, tmp_path / name)
    with pytest.raises(ModelError, match=rf"spread over {len(names)} files of ranks") as caught:
        read_checkpoint(tmp_path)
    assert "zero_to_fp32.py" in caught.value.hint


def test_a_published_folder_is_read_as_before(tmp_path: Path) -> None:
    save_openai(tmp_path)
    assert list(read_checkpoint(tmp_path).files) == ["model.safetensors"]
