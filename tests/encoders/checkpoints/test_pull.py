"""Fetching by name from a stub of the hub with tiny checkpoints in the published layouts."""

import errno
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from llm2clip_search.encoders.catalogue import CatalogueModel, catalogue_models
from llm2clip_search.encoders.checkpoints.pull import converted_folder, is_pulled, pull, verify
from llm2clip_search.encoders.registry import fetch_model, is_at_hand, resolve
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import HIDDEN, eva02_tensors, save_llama, save_openai, siglip2_tensors
from tests.support.models import save_model

OPENAI = catalogue_models()["llm2clip-openai-l-14-336"]
EVA02 = catalogue_models()["llm2clip-eva02-l-14-336"]
SIGLIP2 = catalogue_models()["llm2clip-llama3.1-8b-siglip2-so400m-patch14-224"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A hub of folders that records requests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[dict[str, Any]] = []
        self.here: set[str] = set()

    def folder(self, repo: str) -> Path:
        """A repository's snapshot."""
        folder = self.root / repo.replace("/", "--") / COMMIT
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def snapshot_download(self, repo_id: str, *, local_files_only: bool = False, **asked: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

        if local_files_only:
            if repo_id not in self.here:
                raise LocalEntryNotFoundError("not here")
            return str(self.folder(repo_id))
        self.asked.append({"repo": repo_id, **asked})
        if not (self.root / repo_id.replace("/", "--")).exists():
            raise OfflineModeIsEnabled("no network")
        self.here.add(repo_id)
        return str(self.folder(repo_id))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    import huggingface_hub

    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def publish(hub: Hub, model: CatalogueModel, write: Callable[[Path], object], *, hidden: int = 32) -> None:
    """Publish a tiny checkpoint and a tiny LLM in a model's repositories."""
    assert model.repo is not None
    assert model.llm is not None
    write(hub.folder(model.repo))
    save_llama(hub.folder(model.llm.repo), hidden=hidden)


def save_updates(folder: Path) -> None:
    """PEFT's files for one layer of the tiny LLM."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    layer = "base_model.model.layers.0.self_attn.q_proj"
    halves = {f"{layer}.lora_A.weight": torch.ones(2, HIDDEN), f"{layer}.lora_B.weight": torch.ones(HIDDEN, 2)}
    safetensors.torch.save_file(halves, folder / "adapter_model.safetensors")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_name_is_fetched_converted_and_found_again(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    publish(hub, OPENAI, save_openai)
    caplog.set_level(logging.INFO, logger="llm2clip_search")
    model = fetch_model(OPENAI.name)
    assert model.folder == converted_folder(OPENAI)
    assert model.config.name == OPENAI.name
    assert model.config.licence == "apache-2.0"
    assert model.config.text.weights == f"hf:microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned@{COMMIT}"
    assert "about 17.3 GB" in caplog.text
    count = len(hub.asked)
    assert fetch_model(OPENAI.name).identity == resolve(OPENAI.name).identity == model.identity
    verify(OPENAI)
    assert len(hub.asked) == count


@pytest.mark.parametrize("name", [OPENAI.name, "hf:ice/model", "hf:ice/model@main"])
def test_resolving_a_name_fetches_nothing(hub: Hub, name: str) -> None:
    publish(hub, OPENAI, save_openai)
    assert not is_at_hand(name)
    with pytest.raises(ModelError, match=rf"^{name} is not on this machine\.$") as caught:
        resolve(name)
    assert f"'llm2clip-search models pull {name}' fetches it" in caught.value.hint
    assert hub.asked == []
    assert not is_pulled(OPENAI)


def test_unpinned_base_weights_are_fetched_with_the_model(hub: Hub, tmp_path: Path) -> None:
    """A fingerprint needs the LLM's commit; if the LLM is not here, it is unknown, and the hub is not asked."""
    folder = save_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text"]["weights"] = "hf:ice/llm"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="hf:ice/llm names no commit and is not on this machine"):
        _ = resolve(f"dir:{folder}").identity
    assert hub.asked == []
    save_llama(hub.folder("ice/llm"))
    fingerprint = fetch_model(f"dir:{folder}").identity.fingerprint
    assert [asked["repo"] for asked in hub.asked] == ["ice/llm"]
    config["text"]["weights"] = f"hf:ice/llm@{COMMIT}"
    (folder / "config.json").write_text(json.dumps(config))
    assert resolve(f"dir:{folder}").identity.fingerprint == fingerprint


def test_the_pinned_commit_is_requested_without_code(hub: Hub) -> None:
    publish(hub, OPENAI, save_openai)
    pull(OPENAI)
    checkpoint = hub.asked[0]
    assert (checkpoint["repo"], checkpoint["revision"]) == (OPENAI.repo, OPENAI.revision)
    for asked in hub.asked:
        assert not {"trust_remote_code", "ignore_patterns"} & asked.keys()
        assert all(pattern.endswith((".json", ".safetensors", ".model", ".txt")) for pattern in asked["allow_patterns"])


def test_the_state_dict_of_the_training_repository_is_selected_by_name(hub: Hub) -> None:
    def write(folder: Path) -> None:
        torch.save(eva02_tensors(), folder / "LLM2CLIP-EVA02-L-14-336.pt")
        (folder / "pytorch_model.bin").write_bytes(b"an image tower alone")

    publish(hub, EVA02, write)
    pull(EVA02)
    assert hub.asked[0]["allow_patterns"] == ["LLM2CLIP-EVA02-L-14-336.pt"]
    assert is_pulled(EVA02)


def test_a_checkpoint_whose_files_are_not_documented_is_found(hub: Hub) -> None:
    """SigLIP 2's: any safetensors or .pt file, and its LLM's low-rank updates in a subfolder."""
    publish(hub, SIGLIP2, lambda folder: torch.save(siglip2_tensors(), folder / "any-name.pt"))
    assert SIGLIP2.repo is not None
    save_updates(hub.folder(SIGLIP2.repo) / "LLM2CLIP-Llama-3.1-8B")
    model = fetch_model(SIGLIP2.name)
    assert model.config.text.adaptor is not None
    assert not model.config.text.adaptor.normalises
    assert {name for name in model.tensors("text") if name.startswith("lora.")} == {
        "lora.layers.0.self_attn.q_proj.down",
        "lora.layers.0.self_attn.q_proj.up",
    }


def test_a_repository_without_a_checkpoint_is_reported(hub: Hub) -> None:
    publish(hub, SIGLIP2, lambda folder: None)
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors or \*\.pt"):
        fetch_model(SIGLIP2.name)


def test_an_llm_of_another_width_is_refused_naming_both(hub: Hub, tmp_path: Path) -> None:
    publish(hub, OPENAI, save_openai, hidden=16)
    with pytest.raises(ModelError, match=r"adaptor takes states of 32 dimensions, but .* has 16"):
        fetch_model(OPENAI.name)
    assert files(tmp_path / "cache") == []


def test_an_offline_machine_gets_a_hint_how_to_fetch(hub: Hub) -> None:
    with pytest.raises(ModelError) as caught:
        fetch_model(OPENAI.name)
    message, hint = str(caught.value), caught.value.hint
    repositories = "microsoft/LLM2CLIP-Openai-L-14-336 and microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned"
    for part in ("cannot be reached", f"{repositories} are needed", "about 17.3 GB"):
        assert part in message
    assert "'llm2clip-search models pull llm2clip-openai-l-14-336' on a machine that reaches the hub" in hint
    assert f"copy {converted_folder(OPENAI)}" in hint
    assert "\n" not in message + hint


def test_a_full_disk_while_converting_leaves_nothing(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the tensors are written before the error."""
    publish(hub, OPENAI, save_openai)

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ModelError, match=r"could not be written: the disk is full; nothing of it is left"):
        fetch_model(OPENAI.name)
    assert files(tmp_path / "cache") == []
    assert not is_pulled(OPENAI)


def test_a_pulled_folder_that_changed_is_refused_with_both_hashes(hub: Hub) -> None:
    publish(hub, OPENAI, save_openai)
    path = pull(OPENAI) / "model.safetensors"
    written = json.loads((path.parent / "conversion.json").read_text())["to"]["model.safetensors"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for refuse in (verify, pull):
        with pytest.raises(ModelError, match=rf"has SHA-256 [0-9a-f]{{64}}, but {written} was written"):
            refuse(OPENAI)
    path.unlink()
    with pytest.raises(ModelError, match="is incomplete"):
        verify(OPENAI)
    shutil.rmtree(path.parent)
    assert not is_pulled(OPENAI)
