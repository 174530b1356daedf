"""Querybank normalisation compared with its formula in numpy, and stored in a model folder."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llm2clip_search.encoders import TowerEncoder
from llm2clip_search.encoders.config import ModelConfig
from llm2clip_search.encoders.querybank import QuerybankNorm, load_querybank
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.towers import build_module
from llm2clip_search.errors import ModelError
from llm2clip_search.training import find_recipe


def unit(seed: int, count: int, width: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    out: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return out


def pair(
    images: np.ndarray, captions: np.ndarray, strength: float, scale: float
) -> tuple[QuerybankNorm, QuerybankNorm]:
    own, bank = torch.from_numpy(images), torch.from_numpy(captions)
    return (
        QuerybankNorm.fit("vision", strength, own=own, bank=bank, scale=scale),
        QuerybankNorm.fit("text", strength, own=bank, bank=own, scale=scale),
    )


@given(
    strength=st.floats(0.1, 1.0),
    scale=st.floats(1.0, 60.0),
    width=st.integers(2, 24),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
def test_inner_products_are_the_scores_of_the_formula(
    strength: float, scale: float, width: int, size: int, seed: int
) -> None:
    banks = unit(seed, size, width), unit(seed + 1, size, width)
    images, captions = unit(seed + 2, 7, width), unit(seed + 3, 5, width)
    vision, text = pair(*banks, strength, scale)

    halves = [bank.astype(np.float16).astype(np.float64) for bank in banks]

    def hubs(vectors: np.ndarray, bank: np.ndarray, own: np.ndarray) -> np.ndarray:
        def hub(each: np.ndarray) -> np.ndarray:
            out: np.ndarray = np.log(np.exp(scale * each.astype(np.float64) @ bank.T).mean(axis=1)) / scale
            return out

        less: np.ndarray = hub(vectors) - hub(own).mean()
        return less

    lessened = [hubs(images, halves[1], banks[0]), hubs(captions, halves[0], banks[1])]
    scores = captions.astype(np.float64) @ images.T - strength * (lessened[0][None] + lessened[1][:, None])
    # 0.5 is the anchor: a vector of length 1, the anchor and its own coordinate.
    lengths = [np.sqrt(1 + 0.25 + (2 * strength * hub) ** 2) for hub in lessened]

    ours = [norm(torch.from_numpy(x)).numpy() for norm, x in ((vision, images), (text, captions))]

    np.testing.assert_allclose(ours[1] @ ours[0].T, scores / lengths[0] / lengths[1][:, None], atol=2e-5)
    for vectors in ours:
        assert vectors.shape[1] == width + 2
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_an_image_close_to_every_caption_no_longer_wins() -> None:
    captions = unit(0, 200, 16) * 0.7 + unit(1, 1, 16)
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    hub = captions.mean(axis=0) / np.linalg.norm(captions.mean(axis=0))
    images = (captions + 0.6 * unit(2, 200, 16)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    gallery = np.concatenate([images[100:], hub[None]]).astype(np.float32)

    vision, text = pair(images[:100], captions[:100], 0.5, 20.0)
    asked = torch.from_numpy(captions[100:])
    plain = (asked @ torch.from_numpy(gallery).T).argmax(dim=1).numpy()
    normalised = (text(asked) @ vision(torch.from_numpy(gallery)).T).argmax(dim=1).numpy()

    right = np.arange(100)
    assert (plain == 100).sum() > 3 * (normalised == 100).sum()
    assert (normalised == right).sum() > (plain == right).sum()


NANO = find_recipe("nano")
CONFIG = replace(NANO.stage2.model, querybank=0.5, dim=10)


def stored(norm: QuerybankNorm) -> dict[str, torch.Tensor]:
    return {name.removeprefix("vision.querybank."): tensor for name, tensor in norm.tensors().items()}


def test_a_folders_tensors_give_the_same_vectors() -> None:
    vision, _ = pair(unit(0, 30, 8), unit(1, 30, 8), 0.5, 20.0)
    loaded = load_querybank("vision", CONFIG, stored(vision), device="cpu")
    images = torch.from_numpy(unit(2, 9, 8))
    assert stored(vision)["bank"].dtype == torch.float16
    assert torch.equal(loaded(images), vision(images))


@pytest.mark.parametrize(
    ("bank", "message"),
    [(None, "none"), (torch.zeros(3, 9), r"\[3, 9\]"), (torch.zeros(0, 8), r"\[0, 8\]"), (torch.zeros(8), r"\[8\]")],
)
def test_a_bank_of_other_vectors_is_refused(bank: torch.Tensor | None, message: str) -> None:
    vision, _ = pair(unit(0, 30, 8), unit(1, 30, 8), 0.5, 20.0)
    tensors = {name: tensor for name, tensor in stored(vision).items() if name != "bank"}
    with pytest.raises(ModelError, match=f"vision tower's querybank needs vectors of 8 dimensions, but .*{message}"):
        load_querybank("vision", CONFIG, tensors | ({} if bank is None else {"bank": bank}), device="cpu")


@pytest.mark.parametrize("querybank", [-0.5, float("nan"), float("inf"), "much"])
def test_an_invalid_strength_is_refused(querybank: object, tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG.to_dict())) | {"querybank": querybank}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json does not describe a model"):
        ModelConfig.read(tmp_path / "config.json")


def test_training_needs_images_for_the_bank() -> None:
    with pytest.raises(ValueError, match="querybank_size is 0"):
        replace(NANO.stage2, querybank_size=0)


def test_a_bank_without_a_strength_in_the_configuration_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Ignoring the bank would change embeddings silently."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"text.querybank.bank": torch.zeros(3, 8)}, path)
    with pytest.raises(ModelError, match="holds a querybank for its text tower, but its config"):
        build_module(resolve(f"dir:{folder}"), "text")


def test_without_a_querybank_the_towers_fill_the_space() -> None:
    config: ModelConfig = replace(CONFIG, querybank=0.0)
    assert (CONFIG.tower_dim, config.tower_dim) == (8, 10)


def test_a_model_with_a_querybank_brings_captions_along(tiny_model: Path) -> None:
    """Those of the vision tower's bank as the text tower gives them; a model without one brings none."""
    nano = TowerEncoder(resolve("nano"))
    sample, everything = nano.caption_sample(100), nano.caption_sample(10**6)
    assert sample is not None
    assert everything is not None
    assert (sample.shape, everything.shape, str(sample.dtype)) == ((100, 512), (3000, 512), "float32")
    np.testing.assert_allclose(np.linalg.norm(everything, axis=1), 1.0, atol=1e-6)
    tensors = {tower: nano.model.querybank(tower) for tower in ("vision", "text")}
    norm = load_querybank("text", nano.model.config, tensors["text"], device="cpu")
    expected = norm(torch.nn.functional.normalize(tensors["vision"]["bank"], dim=1))
    np.testing.assert_allclose(everything, expected.numpy(), atol=1e-6)
    assert np.isin(sample[:, 0], everything[:, 0]).all()
    assert TowerEncoder(resolve(f"dir:{tiny_model}")).caption_sample(10) is None
