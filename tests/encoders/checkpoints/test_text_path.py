"""The published text path: template, full attention, pooling, adaptor, truncation, low-rank updates."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.checkpoints.convert import convert
from llm2clip_search.encoders.checkpoints.llm_source import LLMSource
from llm2clip_search.encoders.checkpoints.peft_lora import read_peft
from llm2clip_search.encoders.config import TextConfig
from llm2clip_search.encoders.export import export_model
from llm2clip_search.encoders.model import Model
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.tokenization import LLMTokenizer
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.engine.opening import open_index
from llm2clip_search.errors import ModelError
from llm2clip_search.indexers import index_folder
from tests.support.checkpoints import (
    HEADER,
    Tensors,
    adaptor_tensors,
    eva02_tensors,
    plain_adaptor,
    save_llama,
    save_openai,
    siglip2_tensors,
    vit_tensors,
)
from tests.support.models import CAPTIONS

LONG = " ".join(["a dog"] * 40)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    """An OpenAI checkpoint, whose adaptor normalises its input, as a model folder."""
    folder = tmp_path_factory.mktemp("text")
    save_openai(folder / "published")
    convert(folder / "published", folder / "model", llm=f"dir:{llama}")
    return folder / "model"


def load_llama(folder: Path) -> Any:
    ensure_torchvision()
    import transformers

    return transformers.LlamaModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.inference_mode()
def published_states(folder: Path, captions: Sequence[str], model: Any = None) -> torch.Tensor:
    """States as LLM2Vec computes them: template and caption as one text, padding on the left, an explicit mask over
    everything but padding, and the mean over the last tokens, those of caption and end of turn."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = model or load_llama(folder)
    rows = [tokenizer.encode(f"{HEADER}{caption}<|eot_id|>").ids for caption in captions]
    pooled = [len(tokenizer.encode(f"{caption}<|eot_id|>", add_special_tokens=False).ids) for caption in captions]
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = torch.zeros(len(rows), 1, length, length)
    for number, row in enumerate(rows):
        mask[number, :, :, : length - len(row)] = torch.finfo(torch.float32).min
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.stack([state[-count:].mean(dim=0) for state, count in zip(states, pooled, strict=True)])


def test_captions_equal_the_published_path(converted: Path, llama: Path) -> None:
    """A batch of mixed lengths, padded on the other side and in another order; in both runtimes."""
    from safetensors.torch import load_file

    tensors = load_file(converted.parent / "published" / "model.safetensors")
    captions = [*CAPTIONS, LONG, "x"]
    expected = plain_adaptor(tensors, "text_adapter.adaptor", published_states(llama, captions), normalises=True)
    for runtime, tolerance in (("torch", 1e-5), ("onnx", 1e-4)):
        encoder = load_encoder(f"dir:{converted}", runtime=runtime, device="cpu")  # type: ignore[arg-type]
        found = encoder.encode_texts(captions, batch_size=4)
        np.testing.assert_allclose(found, expected.numpy(), atol=tolerance)
        alone = np.concatenate([encoder.encode_texts([caption]) for caption in captions])
        np.testing.assert_allclose(found, alone, atol=tolerance)


@pytest.mark.parametrize("container", ["text.text_adaptor", "text.text_proj.text_adaptor"])
@pytest.mark.parametrize("tensors_of", [eva02_tensors, siglip2_tensors, vit_tensors])
def test_the_class_of_the_text_tower_decides_whether_states_are_normalised(
    tmp_path: Path, llama: Path, tensors_of: Callable[..., Tensors], container: str
) -> None:
    """Whatever the vision tower is: ``use_embedding`` of the training repository gives the keys, and is kept."""
    tensors = tensors_of(container=container)
    torch.save(tensors, tmp_path / "published.pt")
    convert(tmp_path / "published.pt", tmp_path / "model", llm=f"dir:{llama}")
    states = published_states(llama, CAPTIONS)
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_texts(CAPTIONS)
    normalised = container == "text.text_adaptor"
    as_published, other = (
        plain_adaptor(tensors, container, states, normalises=flag).numpy() for flag in (normalised, not normalised)
    )
    np.testing.assert_allclose(found, as_published, atol=1e-5)
    assert np.abs(found - other).max() > 1e-3
    export_model(resolve(f"dir:{tmp_path / 'model'}"), tmp_path / "back", to="llm2clip")
    back = torch.load(tmp_path / "back" / "model.pt", weights_only=True)
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in tensors.items()}
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("vision", [eva02_tensors, siglip2_tensors])
@pytest.mark.parametrize(
    ("container", "llm"),
    [
        ("text.text_adaptor", "microsoft/LLM2CLIP-Llama-3-8B-Instruct-CC-Finetuned"),
        ("text.text_proj.text_adaptor", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_so_does_it_decide_the_llm(tmp_path: Path, vision: Callable[..., Tensors], container: str, llm: str) -> None:
    """That of the embeddings' script, or that of its text tower, which is tuned by updates."""
    tensors = vision(container=container)
    dim = len(tensors[f"{container}.5.bias"])
    tensors |= adaptor_tensors(container, 4096, dim, lambda *shape: torch.zeros(()).expand(shape))  # takes no memory
    torch.save(tensors, tmp_path / "x.pt")
    with pytest.raises(ModelError, match=f"hf:{llm} is not in"):
        convert(tmp_path / "x.pt", tmp_path / "model")


def test_a_caption_of_600_tokens_is_truncated_before_its_end_of_turn(converted: Path, tmp_path: Path) -> None:
    """512 are read: begin, header, as much of the caption as fits, end of turn. A search warns, with both numbers."""
    encoder = load_encoder(f"dir:{converted}", runtime="torch", device="cpu")
    tokenizer = resolve(f"dir:{converted}").tokenizer()
    end = int(tokenizer([""]).ids[0, -1])
    around = tokenizer.count([""])[0]
    long, kept = (
        next("q" * n for n in range(2000) if tokenizer.count(["q" * n])[0] == tokens) for tokens in (600, 512)
    )
    batch = tokenizer([long])
    assert batch.ids.shape == (1, 512)
    assert batch.ids[0, -1] == end
    assert (batch.attention_mask.sum(), batch.pooling_mask.sum()) == (512, 512 - (around - 1))
    np.testing.assert_allclose(encoder.encode_texts([long]), encoder.encode_texts([kept]), atol=1e-6)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.png")
    index_folder(tmp_path, encoder=encoder, index=tmp_path / "index")
    index = open_index(tmp_path / "index", runtime="torch", device="cpu")
    (warning,) = index.query(long).warnings
    assert warning.startswith("The caption is 600 tokens long, but dir:")
    assert warning.endswith("reads 512; the last 88 are not read.")
    assert index.query(kept).warnings == []


def test_masks_of_template_caption_and_end_of_turn(llama: Path) -> None:
    from tokenizers import Tokenizer

    config = TextConfig(library="llm", weights=None, max_tokens=512, instruction=HEADER, suffix="<|eot_id|>")
    tokenizer = LLMTokenizer(llama, config)
    raw = Tokenizer.from_file(str(llama / "tokenizer.json"))
    ids = [t.ids for t in raw.encode_batch([HEADER, "A dog", "<|eot_id|>"], add_special_tokens=False)]
    begin = raw.token_to_id("<|begin_of_text|>")
    batch = tokenizer(["A dog", "A dog  \n", ""])
    assert batch.ids[0].tolist() == [begin, *ids[0], *ids[1], *ids[2]]
    np.testing.assert_array_equal(batch.ids[1], batch.ids[0])  # LLM2Vec also strips a caption before its end of turn
    before = 1 + len(ids[0])
    assert batch.pooling_mask[0].tolist() == [0] * before + [1] * (len(ids[1]) + 1)
    assert batch.attention_mask[0].all()
    assert batch.pooling_mask[2].sum() == 1
    assert batch.ids[2, before] == ids[2][0]
    assert tokenizer.count(["A dog", ""]) == [before + len(ids[1]) + 1, before + 1]
    with pytest.raises(
        ModelError, match=rf"Instruction and suffix have {before + 1} tokens, which leaves none of the 4"
    ):
        LLMTokenizer(llama, TextConfig(**{**vars(config), "max_tokens": 4}))


@torch.inference_mode()
def llm2vecs_states(folder: Path, captions: Sequence[str], limit: int = 512) -> torch.Tensor:
    """LLM2Vec's own steps with transformers' tokenizer: the whole template is cut at ``limit`` tokens, and as many
    states are pooled from the end as the caption has tokens with its end of turn, at most ``limit``."""
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = load_llama(folder)
    states = []
    for caption in captions:
        text = f"{caption.rstrip()}<|eot_id|>"
        ids = tokenizer(HEADER + text, truncation=True, max_length=limit)["input_ids"]
        count = len(tokenizer(text, truncation=True, max_length=limit, add_special_tokens=False)["input_ids"])
        mask = torch.zeros(1, 1, len(ids), len(ids))
        out = model(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state
        states.append(out[0, -count:].mean(dim=0))
    return torch.stack(states)


def lengths_around_512(llama: Path) -> list[str]:
    """Captions whose templates have 510 to 520 tokens, and one that has 2,000."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(llama / "tokenizer.json"))
    captions = ["x1" * number for number in range(240, 262)] + ["7b" * 1000]
    lengths = [len(tokenizer.encode(f"{HEADER}{caption}<|eot_id|>").ids) for caption in captions]
    assert min(lengths) < 508
    assert {511, 512, 513, 514} & set(lengths)
    return captions


def test_captions_over_512_tokens_as_llm2vec_cuts_and_pools_them(tmp_path: Path, llama: Path) -> None:
    """Chosen when converting; part of the fingerprint; equal to the default for captions that fit."""
    tensors = eva02_tensors()
    torch.save(tensors, tmp_path / "x.pt")
    convert(tmp_path / "x.pt", tmp_path / "theirs", llm=f"dir:{llama}", overlong="llm2vec")
    convert(tmp_path / "x.pt", tmp_path / "ours", llm=f"dir:{llama}")
    captions = [*CAPTIONS, *lengths_around_512(llama)]
    expected = plain_adaptor(tensors, "text.text_adaptor", llm2vecs_states(llama, captions), normalises=True).numpy()
    theirs, ours = (load_encoder(f"dir:{tmp_path / n}", runtime="torch", device="cpu") for n in ("theirs", "ours"))
    np.testing.assert_allclose(theirs.encode_texts(captions), expected, atol=1e-5)
    differ = np.abs(ours.encode_texts(captions) - expected).max(axis=1) > 1e-4
    np.testing.assert_array_equal(differ, np.array(ours.count_tokens(captions)) > 512)
    assert theirs.count_tokens(captions) == ours.count_tokens(captions)
    assert theirs.fingerprint != ours.fingerprint


def test_a_line_break_at_a_captions_start_is_merged_with_the_headers(tmp_path: Path, llama: Path) -> None:
    """Llama 3's tokenizer makes one token of all line breaks, which LLM2Vec pools; also in a caption that is cut."""
    tensors = eva02_tensors()
    torch.save(tensors, tmp_path / "x.pt")
    convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{llama}")
    captions = ["\na dog", "\n\n two cats\n", "  a dog", "\ta dog", "a dog", "\n"]
    expected = plain_adaptor(tensors, "text.text_adaptor", llm2vecs_states(llama, captions), normalises=True).numpy()
    encoder = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu")
    np.testing.assert_allclose(encoder.encode_texts(captions), expected, atol=1e-5)
    tokenizer = resolve(f"dir:{tmp_path / 'model'}").tokenizer()
    whole, cut = tokenizer(["\na dog"]), tokenizer(["\n" + "7b" * 1000])
    merged = token_of(llama, "\n\n\n")
    assert merged in whole.ids[0]
    assert merged in cut.ids[0]
    assert cut.ids.shape == (1, 512)
    assert cut.ids[0, -1] == token_of(llama, "<|eot_id|>")


def token_of(llama: Path, text: str) -> int:
    from tokenizers import Tokenizer

    (found,) = Tokenizer.from_file(str(llama / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return int(found)


def test_a_suffix_is_part_of_the_fingerprint_only_if_it_is_set() -> None:
    """An index made with the packaged model opens as long as this fingerprint does not change."""
    nano = resolve("nano")
    assert nano.identity.fingerprint == "e6f9df36f2331e81"
    config = nano.config
    changed = [
        replace(config, text=replace(config.text, suffix="<|eot_id|>")),
        replace(config, vision=replace(config.vision, options={"img_size": 32})),
    ]
    prints = {Model(nano.reference, each, nano.folder).identity.fingerprint for each in changed}
    assert len(prints | {nano.identity.fingerprint}) == 3


def save_peft(folder: Path, llama: Path, **options: Any) -> Any:
    """Random updates of every linear layer, written by PEFT; returns PEFT's merged model."""
    import peft

    settings: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # from transformers, about an attribute that PEFT reads
        model: Any = peft.get_peft_model(load_llama(llama), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(str(folder))
    return model.merge_and_unload().eval()


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"0\.mlp\.up_proj": 3}}]
)
def test_low_rank_updates_of_peft_equal_its_own_merge(tmp_path: Path, llama: Path, options: dict[str, Any]) -> None:
    """They are found in a subfolder of the checkpoint, copied to the model folder, and merged when the tower loads."""
    tensors: Tensors = siglip2_tensors()
    (tmp_path / "published").mkdir()
    torch.save(tensors, tmp_path / "published" / "checkpoint.pt")
    merged = save_peft(tmp_path / "published" / "LLM2CLIP-Llama", llama, **options)
    convert(tmp_path / "published", tmp_path / "model", llm=f"dir:{llama}")
    states = published_states(llama, CAPTIONS, merged)
    expected = plain_adaptor(tensors, "text.text_proj.text_adaptor", states, normalises=False).numpy()
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_texts(CAPTIONS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(published_states(llama, CAPTIONS).numpy() - states.numpy()).max() > 1e-2


def test_stacked_updates_equal_pefts_merges_one_after_the_other(tmp_path: Path, llama: Path) -> None:
    """As the training repository's stage 1 stacks three; here of different ranks and scales."""
    import peft

    torch.save(siglip2_tensors(), tmp_path / "x.pt")
    save_peft(tmp_path / "one", llama)
    save_peft(tmp_path / "two", llama, r=2, lora_alpha=7, target_modules=["q_proj", "down_proj"])
    merged: Any = load_llama(llama)
    for name in ("one", "two"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            merged = peft.PeftModel.from_pretrained(merged, str(tmp_path / name)).merge_and_unload()
    expected = plain_adaptor(
        siglip2_tensors(),
        "text.text_proj.text_adaptor",
        published_states(llama, CAPTIONS, merged.eval()),
        normalises=False,
    )
    folders = [tmp_path / "one", tmp_path / "two"]
    convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{llama}", lora=folders)
    found = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch", device="cpu").encode_texts(CAPTIONS)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    record = json.loads((tmp_path / "model" / "conversion.json").read_text())
    assert sorted(record["from"]) == ["one/adapter_model.safetensors", "two/adapter_model.safetensors", "x.pt"]
    wide = save_llama(tmp_path / "wide", hidden=64)
    save_peft(tmp_path / "other", wide)
    with pytest.raises(ModelError, match=r"other updates matrices of other sizes .*: they belong to different LLMs"):
        convert(tmp_path / "x.pt", tmp_path / "no", llm=f"dir:{llama}", lora=[tmp_path / "one", tmp_path / "other"])


def test_updates_named_as_the_llm_are_recognised(tmp_path: Path, llama: Path) -> None:
    """With and without the ``config.json`` that some are published with."""
    torch.save(siglip2_tensors(), tmp_path / "x.pt")
    save_peft(tmp_path / "updates", llama)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"updates holds low-rank updates of an LLM .*, but not the LLM") as caught:
            convert(tmp_path / "x.pt", tmp_path / "model", llm=f"dir:{tmp_path / 'updates'}")
        assert "--lora" in caught.value.hint
        (tmp_path / "updates" / "config.json").write_bytes((llama / "config.json").read_bytes())


def test_one_of_two_folders_of_updates_must_be_named(tmp_path: Path, llama: Path) -> None:
    torch.save(siglip2_tensors(), tmp_path / "x.pt")
    for name in ("one", "two"):
        save_peft(tmp_path / name, llama)
    with pytest.raises(ModelError, match="has 2 folders with low-rank updates: one, two") as caught:
        convert(tmp_path, tmp_path / "model", llm=f"dir:{llama}")
    assert "--lora" in caught.value.hint
    convert(tmp_path, tmp_path / "model", llm=f"dir:{llama}", lora=[tmp_path / "two"])
    record = json.loads((tmp_path / "model" / "conversion.json").read_text())
    assert sorted(record["from"]) == ["two/adapter_model.safetensors", "x.pt"]
    convert(tmp_path / "x.pt", tmp_path / "alone", llm=f"dir:{llama}")  # the folder of a single file may hold anything
    assert not [name for name in resolve(f"dir:{tmp_path / 'alone'}").tensors("text") if name.startswith("lora.")]


def test_the_untuned_llm_is_not_used_without_its_updates(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them every embedding would silently change."""
    stand_in = LLMSource(reference="hf:meta-llama/Llama-3.1-8B-Instruct@0123abc", folder=llama)
    monkeypatch.setattr("llm2clip_search.encoders.checkpoints.convert.find_llm", lambda *_, **__: stand_in)
    torch.save(siglip2_tensors(), tmp_path / "x.pt")
    with pytest.raises(
        ModelError, match=r"Instruct@0123abc must be tuned by the low-rank updates .*x\.pt holds none"
    ) as caught:
        convert(tmp_path / "x.pt", tmp_path / "model")
    assert "--lora" in caught.value.hint
    save_peft(tmp_path, llama)  # next to the checkpoint, under PEFT's name
    config = convert(tmp_path, tmp_path / "model")
    assert config.text.weights == stand_in.reference


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({"peft_type": "IA3"}, {}, "has method 'IA3'"),
        ({"use_dora": True}, {}, "sets use_dora to True"),
        ({"bias": "all"}, {}, "sets bias to 'all'"),
        ({}, {"base_model.model.embed_tokens.weight": torch.ones(1)}, r"not low-rank updates: 1 \(base_model"),
        ({}, None, "safe_serialization=True"),
    ],
)
def test_folders_with_other_than_plain_updates_are_refused(
    tmp_path: Path, settings: dict[str, Any], tensors: Tensors | None, message: str
) -> None:
    written = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", **settings}
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    if tensors is not None:
        save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=message):
        read_peft(tmp_path)
