"""Training on own data from a CLIP model, whose vision tower gets an LLM beside it."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.errors import ModelError
from llm2clip_search.training.runtime.metrics_log import read_metrics
from llm2clip_search.training.tasks.start_model import fetch_start
from tests.support import own_data
from tests.support.commands import RunCli
from tests.support.tiny_open_clip import save_open_clip

FAST = (
    "clip.loop.steps=6",
    "clip.loop.warmup_steps=1",
    "clip.loop.evaluate_every=3",
    "clip.batch_size=6",
    "clip.micro_batch=4",
    "clip.vision.blocks=1",
    "clip.keep.text_steps=2",
    "clip.bf16=false",
)
SETTINGS = [part for setting in FAST for part in ("--set", setting)]


@pytest.fixture
def start(tmp_path: Path) -> str:
    """The name of a CLIP model."""
    return f"open_clip:tiny-start/{save_open_clip(tmp_path, 'tiny-start')}"


def test_the_vision_tower_of_a_clip_model_is_trained_with_an_llm(
    start: str, tiny_model: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    own_data.folder_with_texts(tmp_path / "things")
    source = ("--data", "things", "--from", start, "--llm", f"dir:{tiny_model}")
    done = run_cli("train", "init", "my.toml", *source)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "my.toml").read_text()
    assert f'llm = "dir:{tiny_model}"' in text
    assert "[clip.keep]" in text
    assert "anchor" not in text
    assert "mix" not in text
    done = run_cli("train", "run", "my.toml", *SETTINGS)
    assert done.returncode == 0, done.stderr
    model = tmp_path / "my-run" / "model"
    config = ModelConfig.read(model / "config.json")
    assert (config.name, config.dim, config.querybank, config.vision.projection) == ("my", 20, 0.0, False)
    assert config.text.weights == f"dir:{tiny_model / 'llm'}"
    encoder = load_encoder(f"dir:{model}", runtime="torch", device="cpu")
    assert encoder.encode_texts(["a thing on a table"]).shape == (1, 20)
    tensors = load_file(model / "model.safetensors")
    assert any(name.startswith("vision.backbone.transformer.resblocks.1.") for name in tensors), "the trained block"
    assert not any(name.startswith("vision.backbone.transformer.resblocks.0.") for name in tensors)
    assert "step" in read_metrics(model / "metrics.jsonl")[0]
    run = json.loads((model / "run.json").read_text())
    assert (run["steps"], run["before"]) == (6, {})
    again = run_cli("train", "run", "my.toml", *SETTINGS)
    assert again.returncode == 0, again.stderr
    assert "training" not in again.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("clip.anchor.images=1", "clip.anchor holds an adaptor close to what it was, but that of open_clip:tiny-start"),
        ("clip.loop.mix=0.5", "clip.loop.mix is 0.5, but a new adaptor has no weights to keep"),
        ("llm=nanu", "There is no model 'nanu'"),
    ],
)
def test_what_does_not_go_with_a_clip_model_is_said(
    setting: str, message: str, start: str, tiny_model: Path, tmp_path: Path, run_cli: RunCli
) -> None:
    own_data.folder_with_texts(tmp_path / "things")
    source = ("--data", "things", "--from", start, "--llm", f"dir:{tiny_model}")
    assert run_cli("train", "init", "my.toml", *source).returncode == 0
    done = run_cli("train", "run", "my.toml", *SETTINGS, "--set", setting)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "my-run").exists()


def test_a_model_folder_without_an_llm_is_refused_with_the_reason(tiny_model: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_model / "config.json").read_text())
    config["text"] = {"library": "open_clip", "architecture": "ViT-B-32", "weights": "openai", "max_tokens": 77}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"its text tower is that of open_clip, not an LLM, and its weights are in a"):
        fetch_start(f"dir:{tmp_path}", "nano")
