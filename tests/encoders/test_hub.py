"""Models of the Hugging Face hub: fetched once, compared with their hashes, found again offline."""

import errno
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm2clip_search.encoders.dual import create_open_clip
from llm2clip_search.encoders.sources import fetch, find, is_here, pin_is_known
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import ModelError
from tests.support.damaged_files import damage

CONTENT = b"weights of an ice-cold model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hub:
    """A hub with huggingface_hub's cache layout: blobs by hash, and snapshots with links to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {"config.json": b"{}", "model.safetensors": CONTENT}
        self.damage: Callable[[bytes], bytes] = lambda content: content
        self.error: Exception | None = None

    @property
    def folder(self) -> Path:
        """The folder of its only repository."""
        return self.root / "models--ice--model"

    def snapshot_download(self, repo_id: str, *, local_files_only: bool = False, **asked: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        snapshot = self.folder / "snapshots" / ("c" * 40)
        if local_files_only:
            if not snapshot.exists():
                raise LocalEntryNotFoundError("not here")
            return str(snapshot)
        self.asked.append(asked)
        (self.folder / "blobs").mkdir(parents=True, exist_ok=True)
        if self.error is not None:
            (self.folder / "blobs" / "half.12345678.incomplete").write_bytes(b"half")
            raise self.error
        snapshot.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            # Small files have git's hash, large ones SHA-256.
            large = name.endswith(".safetensors")
            blob = self.folder / "blobs" / (hashlib.sha256(content) if large else hashlib.sha1(content)).hexdigest()
            blob.write_bytes(self.damage(content) if large else content)
            (snapshot / name).unlink(missing_ok=True)
            (snapshot / name).symlink_to(blob)
        return str(snapshot)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    import huggingface_hub
    from huggingface_hub import constants

    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(made.root))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def test_a_repository_is_fetched_once_without_code_or_pickles(hub: Hub) -> None:
    assert find("hf:ice/model@main") is None
    assert not pin_is_known("hf:ice/model@main")
    assert pin_is_known("hf:ice/model@" + "a" * 40)
    found = fetch("hf:ice/model@main")
    assert (found.path / "model.safetensors").read_bytes() == CONTENT
    assert found.revision == "c" * 40
    assert fetch("hf:ice/model@main") == found
    assert pin_is_known("hf:ice/model@main")
    assert is_here("hf:ice/model@main")
    (asked,) = hub.asked
    assert asked == {"revision": "main", "allow_patterns": ["*.json", "*.safetensors", "*.model", "*.txt"]}


def test_a_file_of_the_hub_with_another_hash_is_refused_and_removed(hub: Hub) -> None:
    hub.damage = lambda content: content[:-1] + b"?"
    found = hashlib.sha256(CONTENT[:-1] + b"?").hexdigest()
    with pytest.raises(ModelError, match=f"has SHA-256 {found}, but {SHA256} is published"):
        fetch("hf:ice/model")
    assert not any(hub.folder.rglob("*.safetensors"))
    assert not (hub.folder / "blobs" / SHA256).exists()
    hub.damage = lambda content: content
    assert fetch("hf:ice/model").path.is_dir()


def test_a_cached_file_of_the_hub_that_changed_is_refused(hub: Hub) -> None:
    folder = fetch("hf:ice/model").path
    assert fetch("hf:ice/model").path == folder
    blob = (folder / "model.safetensors").resolve()
    found = damage(blob)
    with pytest.raises(ModelError, match=f"safetensors has SHA-256 {found}, but {SHA256} is pinned") as caught:
        fetch("hf:ice/model")
    assert f"Delete {blob} and run" in caught.value.hint


def test_what_open_clip_loads_from_the_hubs_cache_is_compared(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip fetches its weights itself, and compares only those that it gets by URL."""
    ensure_torchvision()
    import open_clip
    from torch import nn

    monkeypatch.setattr(open_clip, "create_model", lambda *names, **options: nn.Identity())
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda *names: {"hf_hub": "ice/model/"})
    folder = fetch("hf:ice/model").path
    create_open_clip("ViT-B-32", "tag")
    damage((folder / "model.safetensors").resolve())
    with pytest.raises(ModelError, match=f"but {SHA256} is pinned"):
        create_open_clip("ViT-B-32", "tag")


def test_a_full_disk_leaves_no_partial_file_of_the_hub(hub: Hub) -> None:
    hub.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ModelError, match="hf:ice/model does not fit on the disk of ") as caught:
        fetch("hf:ice/model")
    assert "HF_HOME" in caught.value.hint
    assert [path for path in hub.root.rglob("*") if path.is_file()] == []


def test_an_offline_machine_with_an_empty_cache_gets_a_hint(hub: Hub) -> None:
    """Partial files of an interrupted download are kept, because the hub's client resumes them."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    hub.error = OfflineModeIsEnabled("offline")
    with pytest.raises(ModelError, match=r"hf:ice/model@main is not in the local cache") as caught:
        fetch("hf:ice/model@main")
    assert "'hf download ice/model --revision main' on a machine that reaches the hub" in caught.value.hint
    assert "\n" not in str(caught.value)
    assert any(hub.root.rglob("*.incomplete"))


def test_a_gated_repository_is_reported(hub: Hub) -> None:
    from huggingface_hub.errors import GatedRepoError

    hub.error = GatedRepoError.__new__(GatedRepoError)
    with pytest.raises(ModelError, match=r"hf:ice/model is gated: .* https://huggingface\.co/ice/model") as caught:
        fetch("hf:ice/model")
    assert "run 'hf auth login'" in caught.value.hint


def test_a_repository_of_pickles_is_refused_with_a_hint(hub: Hub) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors, and pickles ") as caught:
        fetch("hf:ice/model")
    assert "'llm2clip-search models convert" in caught.value.hint


def test_a_model_in_pieces_is_whole_or_fetched_again(hub: Hub) -> None:
    """A download that ended between two files left the first one, whose presence is not enough."""
    pieces = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    hub.files = {
        "model.safetensors.index.json": json.dumps({"weight_map": pieces}).encode(),
        "model-1.safetensors": b"one",
    }
    with pytest.raises(ModelError, match=r"holds no model-2\.safetensors"):
        fetch("hf:ice/model")
    assert find("hf:ice/model") is None
    hub.files["model-2.safetensors"] = b"two"
    folder = fetch("hf:ice/model").path
    assert {path.name for path in folder.glob("*.safetensors")} == set(pieces.values())
    count = len(hub.asked)
    fetch("hf:ice/model")
    assert len(hub.asked) == count


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, True), (logging.WARNING, False)])
def test_the_hubs_client_draws_its_bars_only_where_they_are_wanted(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, level: int, shown: bool
) -> None:
    import huggingface_hub
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    seen: list[bool] = []

    def download(repo: str, **asked: Any) -> str:
        if "allow_patterns" in asked:
            seen.append(not are_progress_bars_disabled())
        return hub.snapshot_download(repo, **asked)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    caplog.set_level(level, logger="llm2clip_search")
    before = are_progress_bars_disabled()
    fetch("hf:ice/model")
    assert seen == [shown]
    assert are_progress_bars_disabled() is before
