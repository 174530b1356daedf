"""Captions are tokenised once, and batches equal those of the libraries' own tokenizers."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llm2clip_search.base.vectors import unit
from llm2clip_search.encoders import load_encoder, model
from llm2clip_search.encoders.adaptor import Adaptor
from llm2clip_search.encoders.config import AdaptorConfig, TextConfig
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.tokenization import (
    CaptionTokenizer,
    FusedTokenBatch,
    FusedTokenizer,
    OpenClipTokenizer,
    TokenBatch,
    TokenizedCaption,
    TransformersTokenizer,
    caption_tokenizer,
)
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.encoders.towers import load_tower
from tests.support.dual import save_dual
from tests.support.models import CAPTIONS, save_model

TEXTS = ["a dog", "", "A black DOG & two cats_run,  through the snow!", *CAPTIONS, "dog " * 100, " x "]


def assert_equal(found: TokenBatch | FusedTokenBatch, expected: TokenBatch) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype == np.int64


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("special", [False, True])
def test_batches_equal_those_of_transformers(tmp_path: Path, kind: str, side: str, special: bool) -> None:
    """With and without special tokens around a truncated caption."""
    folder = tmp_path / "model"
    save_dual(folder, kind)
    if special:
        raw = json.loads((folder / "tokenizer.json").read_text())
        end = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        raw["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [end, {"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        }
        (folder / "tokenizer.json").write_text(json.dumps(raw))
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"padding_side": side}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = caption_tokenizer(TextConfig(library="transformers", weights=f"dir:{folder}", max_tokens=16), None)
    assert isinstance(tokenizer, TransformersTokenizer)
    from transformers import AutoTokenizer

    library = AutoTokenizer.from_pretrained(folder)
    for texts in (TEXTS, TEXTS[:1]):
        expected = library(
            texts,
            padding="max_length",
            truncation=True,
            max_length=16,
            return_attention_mask=True,
            return_tensors="np",
        )
        mask = expected["attention_mask"].astype(np.int64)
        assert_equal(tokenizer(texts), TokenBatch(expected["input_ids"].astype(np.int64), mask, mask))
    assert tokenizer.count(TEXTS) == [len(ids) for ids in library(TEXTS)["input_ids"]]
    assert max(tokenizer.count(TEXTS)) > 16
    assert tokenizer([]).ids.shape == (0, 16)


@pytest.mark.parametrize("context", [77, 12])
def test_batches_equal_those_of_open_clip(tmp_path: Path, context: int) -> None:
    ensure_torchvision()
    import open_clip

    name = f"tiny-context-{context}"
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": context, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
    }
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    tokenizer = OpenClipTokenizer(TextConfig(library="open_clip", architecture=name, weights="x", max_tokens=context))
    library = open_clip.get_tokenizer(name)
    ids = library(TEXTS).numpy().astype(np.int64)
    assert_equal(tokenizer(TEXTS), TokenBatch(ids, np.ones_like(ids), np.ones_like(ids)))
    assert tokenizer.count(TEXTS) == [2 + len(library.encode(text)) for text in TEXTS]
    assert tokenizer([]).ids.shape == (0, context)


def test_tokenizers_that_open_clip_wraps_are_called_unchanged(tmp_path: Path) -> None:
    """open_clip cleans captions first: for SigLIP it lower-cases them and removes punctuation."""
    ensure_torchvision()
    import open_clip

    save_dual(tmp_path / "words", "siglip")
    text = {"context_length": 10, "vocab_size": 320, "hf_tokenizer_name": str(tmp_path / "words")}
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8},
        "text_cfg": {**text, "width": 32, "heads": 4, "layers": 1, "tokenizer_kwargs": {"clean": "canonicalize"}},
    }
    (tmp_path / "tiny-wrapped.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    tokenizer = OpenClipTokenizer(
        TextConfig(library="open_clip", architecture="tiny-wrapped", weights="x", max_tokens=10)
    )
    library = open_clip.get_tokenizer("tiny-wrapped")
    ids = library(TEXTS).numpy().astype(np.int64)
    assert_equal(tokenizer(TEXTS), TokenBatch(ids, np.ones_like(ids), np.ones_like(ids)))
    np.testing.assert_array_equal(*tokenizer(["A DOG!", "a dog"]).ids)
    assert tokenizer.count(TEXTS) == [len(ids) for ids in library.tokenizer(TEXTS)["input_ids"]]


class Counting(CaptionTokenizer):
    """Delegates, and records which texts were tokenised."""

    def __init__(self, inner: CaptionTokenizer, seen: list[str]) -> None:
        self.inner, self.seen = inner, seen

    def tokenize(self, texts: Sequence[str]) -> list[TokenizedCaption]:
        self.seen += texts
        return self.inner.tokenize(texts)

    def batch(self, captions: Sequence[TokenizedCaption]) -> Any:
        return self.inner.batch(captions)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with the text tower of a tiny CLIP."""
    folder = save_model(tmp_path_factory.mktemp("fused") / "model")
    save_dual(folder / "clip", "clip")
    torch.manual_seed(3)
    adaptor = Adaptor(32 + 24, 16, AdaptorConfig(blocks=1)).state_dict()
    tensors = load_file(folder / "model.safetensors") | {f"text.adaptor.{n}": t for n, t in adaptor.items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["text"]["clip"] = asdict(TextConfig(library="transformers", weights="dir:clip", max_tokens=16))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["llm", "fused", "clip"])
def test_an_encoder_tokenises_once_and_embeds_as_before(
    fused: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Equal to the bit to counting tokens, sorting by count, and tokenising again batch by batch."""
    folder = {"llm": tiny_model, "fused": fused, "clip": fused / "clip"}[name]
    of = resolve(f"dir:{folder}")
    tokenizer, tower = of.tokenizer(), load_tower(of, "text", runtime="torch", device="cpu")
    assert isinstance(tokenizer, FusedTokenizer) == (name == "fused")
    expected = np.empty((len(TEXTS), of.config.dim), dtype=np.float32)
    order = np.argsort(tokenizer.count(TEXTS), kind="stable")
    for start in range(0, len(order), 3):
        rows = order[start : start + 3]
        expected[rows] = unit(tower(tokenizer([TEXTS[row] for row in rows])._asdict()))
    seen: list[str] = []
    monkeypatch.setattr(model, "caption_tokenizer", lambda *of: Counting(caption_tokenizer(*of), seen))
    encoder = load_encoder(f"dir:{folder}", runtime="torch", device="cpu")
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS, batch_size=3), expected)
    assert seen == TEXTS


@pytest.mark.parametrize("library", ["llm", "transformers", "open_clip"])
def test_captions_are_lower_cased_where_the_configuration_says_so(
    fused: Path, library: Literal["llm", "transformers", "open_clip"]
) -> None:
    config = TextConfig(
        library=library, architecture="ViT-B-32", weights=f"dir:{fused / 'clip'}", max_tokens=16, lower_case=True
    )
    tokenizer = caption_tokenizer(config, fused)
    as_written = caption_tokenizer(replace(config, lower_case=False), fused)
    lower = [text.lower() for text in TEXTS]
    for found, expected in zip(tokenizer(TEXTS), as_written(lower), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert tokenizer.count(TEXTS) == as_written.count(lower)
    if library != "open_clip":  # whose own tokenizer lower-cases
        assert as_written.count(TEXTS) != as_written.count(lower)


@pytest.mark.parametrize("architecture", ["ViT-B-16-SigLIP2", "ViT-gopt-16-SigLIP2-384", "ViT-B-16-SigLIP"])
def test_open_clips_siglip_2_lower_cases_by_itself(architecture: str) -> None:
    """Its models therefore need no option and keep their fingerprints."""
    ensure_torchvision()
    import open_clip
    from open_clip.tokenizer import get_clean_fn

    settings = open_clip.get_model_config(architecture)["text_cfg"]["tokenizer_kwargs"]
    assert get_clean_fn(settings["clean"])("A Black DOG!") == "a black dog"
    assert not resolve(f"open_clip:{architecture}/webli").config.text.lower_case


def test_instructions_stand_in_for_the_configurations(tiny_model: Path) -> None:
    from llm2clip_search.encoders.tokenization import LLMTokenizer

    config = resolve(f"dir:{tiny_model}").config.text
    plain = LLMTokenizer(tiny_model, config)
    captions = plain.tokenize(CAPTIONS[:2])
    found = plain.batch(captions, ["Find: ", ""])
    own = LLMTokenizer(tiny_model, TextConfig(**{**vars(config), "instruction": "Find: "}))([CAPTIONS[0]])
    width = own.ids.shape[1]
    np.testing.assert_array_equal(found.ids[:1, :width], own.ids)
    np.testing.assert_array_equal(found.pooling_mask[:1, :width], own.pooling_mask)
    assert found.pooling_mask[1].sum() == 23 < len(captions[1].ids)
