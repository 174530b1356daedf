"""Model folders of strangers: paths that leave them, pickles, tensors that are not there, pipes."""

import json
import os
import pickle
import sys
from pathlib import Path

import pytest

from llm2clip_search.benchmarks.perf.hostile_paths import ESCAPING
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.weights import indexed_files, mapped_tensors, tensor_shapes, weight_files
from llm2clip_search.errors import ModelError


def test_an_index_of_weights_names_files_of_its_folder(tmp_path: Path) -> None:
    assert len(set(ESCAPING)) >= 100
    index = tmp_path / "model.safetensors.index.json"
    for name in ESCAPING:
        index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": name}}))
        with pytest.raises(ModelError, match="which is not a file of its folder"):
            weight_files(tmp_path)
    odd: list[object] = [{}, [], {"weight_map": 1}, {"weight_map": {"a": 1}}, {"weight_map": {"a": ["x"]}}]
    for wrong in odd:
        index.write_text(json.dumps(wrong))
        with pytest.raises(ModelError, match="is not an index of safetensors files"):
            weight_files(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "parts/model-1.safetensors", "b": "model..2.safetensors"}}))
    assert indexed_files(index) == ["model..2.safetensors", "parts/model-1.safetensors"]


class _Runs:
    """What a pickle runs when it is read."""

    def __init__(self, made: Path) -> None:
        self._made = made

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._made),)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
def test_pickles_are_never_run(tmp_path: Path, name: str) -> None:
    folder, made = tmp_path / "model", tmp_path / "made"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "clip"}')
    (folder / name).write_bytes(pickle.dumps(_Runs(made)))
    with pytest.raises(ModelError, match="pickle"):
        resolve(f"dir:{folder}")
    assert not made.exists()


def _safetensors(path: Path, header: object, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def test_tensors_that_are_not_there_take_no_memory(tmp_path: Path) -> None:
    huge = {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}
    backward = {"dtype": "F32", "shape": [4], "data_offsets": [8, 0]}
    over = {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 16]}
    headers: list[object] = [
        {"a": huge},
        {"a": backward},
        {"a": over},
        {"a": 1},
        {"a": {}},
        [],
        b"[" * 100_000,
        b"\xff\xfe",
    ]
    for header in headers:
        path = _safetensors(tmp_path / "model.safetensors", header, bytes(16))
        with pytest.raises(ModelError, match="is not a readable safetensors file"):
            mapped_tensors(path)
    (tmp_path / "long").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="claims"):
        tensor_shapes(tmp_path / "long")


@pytest.mark.skipif(sys.platform != "linux", reason="makes a pipe")
def test_pipes_in_a_model_folder_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError):
        resolve(f"dir:{tmp_path}")
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ModelError, match="has no readable config"):
        resolve(f"dir:{tmp_path}")


ABSURD = [10**9, 10**30, -1, "9" * 100_000, float("nan"), float("inf"), [1, 10**9]]


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: f"{value!r:.12}")
def test_sizes_that_no_model_has_are_refused_before_anything_is_built(tmp_path: Path, value: object) -> None:
    """A billion layers would take days, and a table of as many positions all memory."""
    path = tmp_path / "config.json"
    own = json.loads((Path(__file__).parent / "fixtures" / "v2" / "config.json").read_text())
    of_transformers = {"model_type": "clip", "vision_config": {}, "text_config": {"vocab_size": 100}}
    for where, name in (("vision", "height"), ("text", "max_tokens"), ("adaptor", "blocks"), ("options", "depth")):
        raw = json.loads(json.dumps(own))
        part = {"adaptor": raw["text"]["adaptor"], "options": raw["vision"]["options"], **raw}[where]
        part[name] = value
        path.write_text(json.dumps(raw))
        with pytest.raises(ModelError, match=f"config.json states {name} = .* but it is a number from 0 to") as caught:
            resolve(f"dir:{tmp_path}")
        assert len(str(caught.value)) < 400
    for part, name in (("vision_config", "num_hidden_layers"), ("text_config", "max_position_embeddings")):
        path.write_text(json.dumps({**of_transformers, part: {name: value}}))
        with pytest.raises(ModelError, match=f"config.json states {name} = "):
            resolve(f"dir:{tmp_path}")


def test_a_configuration_that_is_no_object_is_a_sentence(tmp_path: Path) -> None:
    for content in ("", "[", "[]", "7", "null", "[" * 100_000, '"' + "a" * 1000):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match="config"):
            resolve(f"dir:{tmp_path}")
