"""Fingerprints cover what base weights and tokenizers are, wherever a command runs, and cost no reading."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm2clip_search.base.files import file_sha256
from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.registry import resolve
from tests.support.dual import save_dual
from tests.support.models import save_model

PIXELS = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
NANO = Path(str(resolve("nano").folder))


def fingerprint(folder: Path) -> str:
    return resolve(f"dir:{folder}").identity.fingerprint


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def lower_cased(path: Path) -> None:
    """Give a tokenizer another normaliser."""
    edit(path, normalizer={"type": "Lowercase"})


def test_a_changed_configuration_is_another_model(tmp_path: Path) -> None:
    """The compiled tower of the former one does not answer for it."""
    folder = tmp_path / "clip"
    save_dual(folder, "clip")
    seen = {fingerprint(folder)}
    load_encoder(f"dir:{folder}", runtime="onnx", device="cpu").encode_pixels(PIXELS)
    for tower in ("text_config", "vision_config"):
        config = json.loads((folder / "config.json").read_text())
        edit(folder / "config.json", **{tower: config[tower] | {"hidden_act": "gelu", "num_attention_heads": 2}})
        seen.add(fingerprint(folder))
    assert len(seen) == 3
    onnx, torch = (load_encoder(f"dir:{folder}", runtime=each, device="cpu") for each in ("onnx", "torch"))
    np.testing.assert_allclose(onnx.encode_pixels(PIXELS), torch.encode_pixels(PIXELS), atol=1e-5)
    edit(folder / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    assert fingerprint(folder) not in seen


def test_names_and_licences_of_a_transformers_folder_do_not_count(tmp_path: Path) -> None:
    save_dual(tmp_path / "clip", "clip")
    before = fingerprint(tmp_path / "clip")
    names = {"_name_or_path": "other/name", "transformers_version": "0.0", "license": "mit"}
    edit(tmp_path / "clip" / "config.json", **names)
    (tmp_path / "clip" / "README.md").write_text("a model")
    assert fingerprint(tmp_path / "clip") == before


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "merges.txt", "spiece.model"])
def test_a_changed_tokenizer_of_a_transformers_folder_is_another_model(tmp_path: Path, name: str) -> None:
    save_dual(tmp_path / "clip", "clip")
    before = fingerprint(tmp_path / "clip")
    with (tmp_path / "clip" / name).open("a") as file:
        file.write("\n")
    assert fingerprint(tmp_path / "clip") != before


def test_the_configuration_of_an_llm_in_a_folder_counts_and_its_tokenizer_does_not(tmp_path: Path) -> None:
    """Captions are tokenised with the model folder's."""
    folder = save_model(tmp_path / "model")
    before = fingerprint(folder)
    (folder / "llm" / "tokenizer.json").write_text("{}")
    assert fingerprint(folder) == before
    edit(folder / "llm" / "config.json", num_attention_heads=2)
    assert fingerprint(folder) != before


def test_a_changed_tokenizer_of_a_model_folder_is_another_model(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    before = fingerprint(folder)
    lower_cased(folder / "tokenizer.json")
    assert fingerprint(folder) != before


def test_nano_keeps_its_fingerprint_and_a_copy_with_another_tokenizer_has_another(tmp_path: Path) -> None:
    for path in NANO.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert fingerprint(tmp_path) == resolve("nano").identity.fingerprint == "e6f9df36f2331e81"
    (tmp_path / "tokenizer.json").unlink()
    save_model(tmp_path / "tiny")
    (tmp_path / "tiny" / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    assert fingerprint(tmp_path) != "e6f9df36f2331e81"


def test_a_converted_model_of_a_pinned_llm_keeps_its_fingerprint(tmp_path: Path) -> None:
    """That of the time when tokenizers did not count: its tokenizer is the pinned LLM's unless it was changed."""
    folder = save_model(tmp_path / "model")
    text = json.loads((folder / "config.json").read_text())["text"]
    edit(folder / "config.json", text=text | {"weights": f"hf:ice/llm@{'0' * 40}"})
    tokenizer = folder / "tokenizer.json"
    counted = fingerprint(folder)
    record = {"to": {"tokenizer.json": file_sha256(tokenizer)}}
    (folder / "conversion.json").write_text(json.dumps(record))
    kept = fingerprint(folder)
    content = tokenizer.read_bytes()
    tokenizer.unlink()
    assert fingerprint(folder) == kept != counted
    tokenizer.write_bytes(content)
    lower_cased(tokenizer)
    assert fingerprint(folder) not in (kept, counted)
    edit(folder / "config.json", text=text)  # an LLM in a folder, whose tokenizer is not pinned
    changed = fingerprint(folder)
    (folder / "conversion.json").write_text(json.dumps({"to": {"tokenizer.json": file_sha256(tokenizer)}}))
    assert fingerprint(folder) == changed


def test_a_fingerprint_that_was_taken_before_reads_nothing_large(tmp_path: Path) -> None:
    """A query whose caption is kept takes it in a new process each time."""
    save_dual(tmp_path / "clip", "clip")
    for name in ("nano", f"dir:{save_model(tmp_path / 'model')}", f"dir:{tmp_path / 'clip'}"):
        code = """
import sys
from pathlib import Path
opened = set()
sys.addaudithook(lambda event, about: opened.add(str(about[0])) if event == "open" else None)
from llm2clip_search.encoders.registry import resolve
resolve(sys.argv[1]).identity
print(*{Path(path).name for path in opened if path.endswith((".safetensors", "tokenizer.json"))})
"""
        runs = [subprocess.run([sys.executable, "-c", code, name], capture_output=True, check=True) for _ in range(2)]
        # The first bytes of each file of tensors tell a pickle.
        assert set(runs[1].stdout.decode().split()) <= {"model.safetensors"}


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_a_tag_of_open_clip_is_not_looked_for_where_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    before = resolve("open_clip:ViT-B-32-quickgelu/openai").identity.fingerprint
    make(tmp_path / "openai")
    assert resolve("open_clip:ViT-B-32-quickgelu/openai").identity.fingerprint == before


@pytest.mark.parametrize("name", ["weights", "weights.pt", "webli", "folder/openai"])
def test_the_content_of_a_checkpoint_for_open_clip_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also that of a file with the name of another architecture's tag."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    seen = set()
    for content in (b"one", b"another"):
        path.write_bytes(content)
        seen.add(resolve(f"open_clip:ViT-B-32-quickgelu/{name}").identity.fingerprint)
    assert len(seen) == 2
