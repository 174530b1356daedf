"""``models export`` and ``bench opening`` as a user runs them."""

import json
from pathlib import Path

from tests.support.commands import RunCli, is_one_error


def test_a_tower_is_exported_and_a_refusal_is_one_sentence(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    done = run_cli("models", "export", f"dir:{tiny_model}", tmp_path / "onnx", "--to", "onnx", "--tower", "vision")
    assert done.returncode == 0, done.stderr
    first, *files = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'onnx'}: vision tower, 16 dimensions, L2-normalised; cosine to torch")
    assert [line.split()[-1] for line in files] == ["vision.json", "vision.onnx", "weights.bin"]
    refused = run_cli("models", "export", f"dir:{tiny_model}", tmp_path / "clip")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: The vision tower of dir:{tiny_model} is test_vit of timm, but")
    assert is_one_error(refused.stderr)
    assert not (tmp_path / "clip").exists()


def test_an_exported_text_tower_needs_nothing_but_tokens(tmp_path: Path, tiny_model: Path, run_cli: RunCli) -> None:
    """Any program can run it: the operators are ONNX's own, and the table of token embeddings is inside."""
    import onnx

    folder = tmp_path / "onnx"
    assert run_cli("models", "export", f"dir:{tiny_model}", folder, "--to", "onnx", "--tower", "text").returncode == 0
    model = onnx.load(folder / "text.onnx")
    assert [node.name for node in model.graph.input] == ["ids", "attention_mask", "pooling_mask"]
    assert {node.domain for node in model.graph.node} == {""}
    assert list(json.loads((folder / "text.json").read_text())["inputs"]) == ["ids", "attention_mask", "pooling_mask"]


def test_opening_is_measured(tiny_model: Path, run_cli: RunCli) -> None:
    done = run_cli("bench", "opening", f"dir:{tiny_model}", "--tower", "vision", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert list(found) == ["tower", "stored", "size", "libraries", "peak", "ratio"]
    assert found["tower"] == "vision"
    assert found["ratio"] == found["peak"] / found["size"] > 0
