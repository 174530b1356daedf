"""Heads trained on a made-up Flickr8k: reproducible, better than chance, and the same once saved and loaded."""

import csv
import gzip
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llm2clip_search.benchmarks.flickr8k import iter_images, read_captions
from llm2clip_search.encoders import load_encoder
from llm2clip_search.encoders.config import AdaptorConfig, ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.errors import CorpusError, ModelError
from llm2clip_search.training import RECIPES, HeadsRecipe, train_heads
from llm2clip_search.training.heads import Features, Heads
from tests.conftest import photograph, save_llm, save_tokenizer


def quiet(what: str, done: int, total: int) -> None:
    assert done >= 0, what


@pytest.fixture(scope="module")
def flickr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images a split, two captions each that name the image's number."""
    root = tmp_path_factory.mktemp("flickr8k")
    rows = []
    for offset, split in ((0, "train"), (100, "dev")):
        with tarfile.open(root / f"flickr8k-{split}-000.tar", "w") as tar:
            for number in range(offset, offset + 6):
                buffer = io.BytesIO()
                photograph(number).save(buffer, "JPEG")
                member = tarfile.TarInfo(f"{number}.jpg")
                member.size = buffer.tell()
                tar.addfile(member, io.BytesIO(buffer.getvalue()))
                rows += [(f"{number}.jpg", split, "en", f"picture {number} {word}") for word in ("one", "two")]
    with gzip.open(root / "captions.csv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "split", "lang", "caption"])
        writer.writerows(reversed(rows))  # ids decide, not positions
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> HeadsRecipe:
    """Tiny random towers."""
    ensure_torchvision()
    import timm

    folder = tmp_path_factory.mktemp("towers")
    save_llm(folder / "llm")
    save_tokenizer(folder / "llm")
    (folder / "llm" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    torch.manual_seed(0)
    from safetensors.torch import save_file

    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), folder / "vit.safetensors")
    return HeadsRecipe(
        model=ModelConfig(
            name="tiny",
            dim=8,
            vision=VisionConfig(
                library="timm",
                architecture="test_vit",
                weights=f"dir:{folder / 'vit.safetensors'}",
                projection=True,
                preprocess=PreprocessConfig(height=160, width=160, resize="squash"),
            ),
            text=TextConfig(
                library="llm",
                weights=f"dir:{folder / 'llm'}",
                max_tokens=32,
                hidden_layers=(1,),
                adaptor=AdaptorConfig(blocks=1, input="standardised"),
            ),
        ),
        epochs=30,
        batch_size=6,
        learning_rate=1e-2,
        weight_decay=0.0,
        vision_dropout=0.0,
        text_dropout=0.1,
    )


def test_a_trained_folder_is_a_model(flickr: Path, recipe: HeadsRecipe, tmp_path: Path) -> None:
    """Recalls come from ids; the saved folder embeds the train split so that pairs find each other."""
    recalls = train_heads(recipe, data=flickr, out=tmp_path / "model", report=quiet)
    assert recalls["image_retrieval_recall@10"] == 1.0  # six dev images: every rank is within ten
    encoder = load_encoder(f"dir:{tmp_path / 'model'}", runtime="torch")
    images = dict(iter_images(flickr, split="train"))
    captions = read_captions(flickr, split="train", lang="en")
    scores = encoder.encode_texts(captions.texts) @ encoder.encode_images(images.values()).T
    assert (scores.argmax(axis=1) == captions.rows_in(list(images))).mean() >= 0.9


def test_saved_heads_equal_the_trained_ones(recipe: HeadsRecipe, tmp_path: Path) -> None:
    """Folding the features' scaling into the projection changes no embedding beyond half precision."""
    from safetensors.torch import load_file

    torch.manual_seed(1)
    features = Features(
        images=torch.randn(12, 64) * 3.0 + 5.0, captions=torch.randn(24, 32) * 7.0, image_of=torch.arange(24) // 2
    )
    heads = Heads(recipe, features)
    heads.fit(features, features, quiet)
    heads.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    saved = features.images @ tensors["vision.projection.weight"].float().T + tensors["vision.projection.bias"]
    with torch.inference_mode():
        trained = heads.projection((features.images - heads.mean) / heads.std)
    cosine = torch.nn.functional.cosine_similarity(saved, trained)
    assert float(cosine.min()) > 0.9999


def test_one_recipe_gives_one_model(recipe: HeadsRecipe) -> None:
    """The same seed gives the same recalls and weights; another seed gives others."""

    def weights(seed: int) -> np.ndarray:
        torch.manual_seed(2)
        features = Features(images=torch.randn(12, 64), captions=torch.randn(24, 32), image_of=torch.arange(24) // 2)
        torch.manual_seed(seed)
        heads = Heads(recipe, features)
        heads.fit(features, features, quiet)
        found: np.ndarray = heads.projection.weight.detach().numpy()
        return found

    np.testing.assert_array_equal(weights(0), weights(0))
    assert not np.allclose(weights(0), weights(1))


def test_bad_data_is_told_in_a_sentence(flickr: Path, recipe: HeadsRecipe, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="language 'xx'"):
        train_heads(recipe, data=flickr, out=tmp_path / "a", langs=("xx",), report=quiet)
    with pytest.raises(CorpusError, match=r"captions\.csv\.gz"):
        train_heads(recipe, data=tmp_path, out=tmp_path / "b", report=quiet)
    features = Features(images=torch.randn(4, 64), captions=torch.randn(3, 32), image_of=torch.tensor([0, 1, 2]))
    with pytest.raises(ModelError, match="1 of 4 training images have no caption"):
        Heads(recipe, features).fit(features, features, quiet)
    broken = replace(features, captions=torch.full((4, 32), torch.nan), image_of=torch.arange(4))
    with pytest.raises(ModelError, match="loss is nan at step 0"):
        Heads(recipe, broken).fit(broken, broken, quiet)


def test_the_packaged_recipe_is_the_packaged_model() -> None:
    """nano's config.json says what its recipe says."""
    from llm2clip_search.encoders.catalogue import resolve

    assert resolve("nano").config == RECIPES["nano"].model
