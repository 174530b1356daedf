"""Conversion as a whole: what it refuses, what it writes, and the command."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.checkpoints.convert import convert
from llm2clip_search.encoders.checkpoints.layouts import LayoutName, read_checkpoint
from llm2clip_search.encoders.config import AdaptorConfig, TextConfig
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.errors import ModelError
from tests.support.checkpoints import (
    HEADER,
    LAYOUTS,
    Tensors,
    eva02_tensors,
    openai_tensors,
    renamed,
    save_llama,
    save_openai,
    siglip2_tensors,
    without,
)
from tests.support.commands import RunCli


@settings(deadline=None)
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".pt", ".bin", ".safetensors"]))
@example(data=b"root:x:0:0:root:/root:/bin/bash\n", suffix=".pt")
def test_bytes_that_are_not_a_checkpoint_are_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"x{suffix}"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"x\{suffix}"):
        read_checkpoint(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_tensor_is_in_the_folder(tmp_path: Path, llama: Path, layout: LayoutName) -> None:
    """Equal to the bit, in half precision and under any name; except rotary angles, which are computed, and that a
    plain ViT's projection is transposed."""
    tensors = {name: tensor.half() for name, tensor in LAYOUTS[layout]().items()}
    if layout == "openai":
        save_openai(tmp_path / "published", dtype=torch.float16)
    else:
        (tmp_path / "published").mkdir()
        torch.save(tensors, tmp_path / "published" / "checkpoint.pt")
    convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    written = load_file(tmp_path / "model" / "model.safetensors")

    def bits(of: Tensors) -> list[bytes]:
        turned = {name: t.T if name == "visual.proj" else t for name, t in of.items()}
        return sorted(t.contiguous().numpy().tobytes() for name, t in turned.items() if ".freqs_" not in name)

    assert {tensor.dtype for tensor in written.values()} == {torch.float16}
    assert bits(written) == bits(tensors)


def test_the_folder_records_what_it_was_made_from(tmp_path: Path, llama: Path) -> None:
    save_openai(tmp_path / "published")
    config = convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}", licence="Apache-2.0")
    model = resolve(f"dir:{tmp_path / 'model'}")
    assert model.config == config
    assert config.text == TextConfig(
        library="llm",
        weights=f"dir:{llama}",
        max_tokens=512,
        attention="bidirectional",
        pooling="mean",
        instruction=HEADER,
        suffix="<|eot_id|>",
        adaptor=AdaptorConfig(blocks=4, expansion=2, normalises=True),
    )
    folder = tmp_path / "model"
    record = json.loads((folder / "conversion.json").read_text())
    assert record["layout"] == "openai"
    source = tmp_path / "published" / "model.safetensors"
    assert record["from"] == {"model.safetensors": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert record["to"] == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "config.json", "tokenizer.json")
    }
    assert record["from"]["model.safetensors"] in (folder / "README.md").read_text()
    assert (folder / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    convert(tmp_path / "published", tmp_path / "again", llm=f"dir:{llama}", name="model", licence="Apache-2.0")
    assert resolve(f"dir:{tmp_path / 'again'}").identity.fingerprint == model.identity.fingerprint


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("owned"),))


def test_files_that_are_not_checkpoints_are_refused(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with one sentence; no folder is left, and no code of a pickle is run."""
    monkeypatch.chdir(tmp_path)
    save_openai(tmp_path / "good")
    whole = (tmp_path / "good" / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04 no archive")
    torch.save(openai_tensors(), tmp_path / "renamed.safetensors")
    torch.save({"state_dict": openai_tensors(), "args": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": 1}, tmp_path / "numbers.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / "two" / name)
    before = sorted(path.name for path in tmp_path.iterdir())
    for name, message in (
        ("nowhere", "There is no checkpoint at"),
        ("cut.safetensors", "not a readable safetensors file"),
        ("renamed.safetensors", r"is a pickle in spite of its name, .*save_file"),
        ("half.pt", r"cannot be read as a state dict that holds only tensors .*save_file"),
        ("evil.pt", r"only tensors \(UnpicklingError\)"),
        ("bare.pt", r"only tensors \(UnpicklingError\)"),
        ("list.pt", "holds no state dict"),
        ("numbers.pt", "holds no state dict"),
        ("empty", r"holds no \*\.safetensors"),
        ("two", r"holds 2 checkpoints \(a\.pt, b\.pt\)"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            convert(tmp_path / name, tmp_path / "model", llm=f"dir:{llama}")
        assert "\n" not in str(caught.value)
    (tmp_path / "renamed.safetensors").rename(tmp_path / "renamed.pt")
    assert read_checkpoint(tmp_path / "renamed.pt").tensors.keys() == openai_tensors().keys()
    assert {path.name for path in tmp_path.iterdir()} - {"renamed.pt"} == set(before) - {"renamed.safetensors"}


def test_llms_that_do_not_fit_are_refused(tmp_path: Path, llama: Path) -> None:
    """Both widths are named, and the LLM that fits, if the adaptor has a published width."""
    torch.save(eva02_tensors(), tmp_path / "x.pt")
    wide = save_llama(tmp_path / "wide", hidden=64)
    with pytest.raises(ModelError, match=r"takes states of 32 dimensions, but dir:.*wide has 64 .the 8B models"):
        convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{wide}")
    with pytest.raises(ModelError, match="No published LLM fits an adaptor of 32 dimensions") as caught:
        convert(tmp_path / "x.pt", tmp_path / "model")
    assert "--llm" in caught.value.hint
    torch.save(eva02_tensors(hidden=2048), tmp_path / "1b.pt")
    with pytest.raises(ModelError, match=r"2048 dimensions, but .* has 32 .*1B-Instruct-CC-Finetuned fits"):
        convert(tmp_path / "1b.pt", tmp_path / "model", llm=f"dir:{llama}")
    with pytest.raises(ModelError, match=r"hf:microsoft/LLM2CLIP-Llama-3\.2-1B-Instruct-CC-Finetuned is not in"):
        convert(tmp_path / "1b.pt", tmp_path / "model")
    broken = save_llama(tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ModelError, match="is a 'bert' model; supported LLMs are"):
        convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{broken}")
    (broken / "config.json").unlink()
    with pytest.raises(ModelError, match="is not an LLM's folder"):
        convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{broken}")
    tokenizer = (llama / "tokenizer.json").read_text().replace("<|eot_id|>", "<|end_id|>")
    other = save_llama(tmp_path / "other")
    (other / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(ModelError, match=r"has no <\|eot_id\|>; captions need Llama 3's tokenizer"):
        convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{other}")
    assert not list(tmp_path.glob(".model*"))
    assert not (tmp_path / "model").exists()


def test_llms_are_safetensors_with_every_key(tmp_path: Path, llama: Path) -> None:
    """A language-model head is accepted; a pickle or a missing layer, which transformers would fill in, is not."""
    torch.save(eva02_tensors(), tmp_path / "x.pt")
    other = save_llama(tmp_path / "llm")
    path = other / "model.safetensors"
    tensors = load_file(path)
    headed = {f"model.{name}": tensor for name, tensor in tensors.items()} | {"lm_head.weight": torch.zeros(320, 32)}
    save_file(headed, path, metadata={"format": "pt"})
    convert(tmp_path / "x.pt", tmp_path / "headed", llm=f"dir:{other}")
    np.testing.assert_allclose(
        load_encoder(f"dir:{tmp_path / 'headed'}", runtime="torch", device="cpu").encode_texts(["a dog"]),
        convert_and_embed(tmp_path, llama, "a dog"),
        atol=1e-6,
    )
    save_file(without(tensors, "layers.1.mlp.up_proj.weight"), path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"not those of a llama model: missing 1 \(layers\.1\.mlp\.up_proj\.weight\)"):
        convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{other}")
    save_file(tensors | {"layers.9.mlp.gate": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"not those of a llama model: unexpected 1 \(layers\.9\.mlp\.gate\)"):
        convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{other}")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{other}")
    path.unlink()
    torch.save(tensors, other / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors, but pickles \(pytorch_model\.bin\); .*save_pretrained"):
        convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{other}")


def convert_and_embed(folder: Path, llm: Path, caption: str) -> np.ndarray:
    """Convert the EVA02 checkpoint with another LLM, and embed a caption."""
    convert(folder / "x.pt", folder / "plain", llm=f"dir:{llm}")
    return load_encoder(f"dir:{folder / 'plain'}", runtime="torch", device="cpu").encode_texts([caption])


def test_remote_code_that_a_configuration_names_is_never_asked_for(tmp_path: Path, llama: Path) -> None:
    """Published LLMs name modeling files in ``auto_map``: here one that does not exist, and one that leaves a trace."""
    torch.save(eva02_tensors(), tmp_path / "x.pt")
    other = save_llama(tmp_path / "llm")
    raw = json.loads((other / "config.json").read_text())
    raw |= {
        "architectures": ["LlamaBiModel"],
        "auto_map": {"AutoModel": "modeling_x.LlamaBiModel", "AutoConfig": "nobody/nothing--modeling_x.Config"},
    }
    (other / "config.json").write_text(json.dumps(raw))
    (other / "modeling_x.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\nraise SystemExit")
    convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{other}")
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_texts(["a dog"])
    np.testing.assert_allclose(found, convert_and_embed(tmp_path, llama, "a dog"), atol=1e-6)
    assert not (tmp_path / "owned").exists()


def test_a_relative_llm_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path given is relative to the working directory; the model folder stores it in full."""
    torch.save(eva02_tensors(), tmp_path / "x.pt")
    save_llama(tmp_path / "llm")
    monkeypatch.chdir(tmp_path)
    config = convert(Path("x.pt"), Path("deep/model"), llm="dir:llm")
    assert config.text.weights == f"dir:{tmp_path / 'llm'}"
    assert resolve(f"dir:{tmp_path / 'deep' / 'model'}").config == config


def test_a_destination_that_exists_is_left_alone(tmp_path: Path, llama: Path) -> None:
    save_openai(tmp_path / "published")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("keep")
    with pytest.raises(ModelError, match="model exists already"):
        convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine.txt"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full while tensors are written."""
    import safetensors.torch

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    save_openai(tmp_path / "published")
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(ModelError, match=r"could not be written: the disk is full; nothing of it is left"):
        convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_a_processor_in_the_checkpoints_folder_is_used(tmp_path: Path, llama: Path) -> None:
    save_openai(tmp_path / "published")
    processor = {"size": 12, "crop_size": 12, "image_mean": [0.1] * 3, "image_std": [0.2] * 3, "resample": 2}
    (tmp_path / "published" / "preprocessor_config.json").write_text(json.dumps(processor))
    config = convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    assert (config.vision.preprocess.mean, config.vision.preprocess.interpolation) == ((0.1,) * 3, "bilinear")
    (tmp_path / "published" / "preprocessor_config.json").write_text(json.dumps({**processor, "crop_size": 16}))
    with pytest.raises(ModelError, match="makes 16x16 pixels, but the vision tower takes 12x12"):
        convert(tmp_path / "published", tmp_path / "other", llm=f"dir:{llama}")


def test_shards_of_safetensors_are_one_checkpoint(tmp_path: Path) -> None:
    save_openai(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        save_file({name: tensors[name] for name in part}, tmp_path / f"model-{number:05d}-of-00002.safetensors")
    found = read_checkpoint(tmp_path)
    assert found.tensors.keys() == tensors.keys()
    assert len(found.files) == 2


def test_the_command(run_cli: RunCli, tmp_path: Path, llama: Path) -> None:
    """One line on stdout, notes on stderr; the folder then resolves like any other."""
    tensors = renamed(siglip2_tensors(), ("text.text_proj.text_adaptor", "text.text_proj.adaptor"))
    torch.save(tensors, tmp_path / "x.pt")
    done = run_cli("models", "convert", "x.pt", "model", "--llm", f"dir:{llama}", "--pixels", "siglip")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model: 28x28 pixels, 512 tokens, 128 dimensions, LLM dir:")
    assert resolve(f"dir:{tmp_path / 'model'}").identity.fingerprint in done.stdout
    assert "note: The adaptor's keys start with text.text_proj.adaptor;" in done.stderr
    again = run_cli("models", "convert", "x.pt", "model", "--llm", f"dir:{llama}")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "error: model exists already.\nhint: Name a folder that does not exist.\n"
