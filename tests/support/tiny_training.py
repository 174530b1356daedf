"""The recipes, with towers and data small enough for tests."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llm2clip_search.encoders.config import TextConfig, VisionConfig
from llm2clip_search.encoders.torchvision_ops import ensure_torchvision
from llm2clip_search.training import Recipe
from llm2clip_search.training.runtime.loop import LoopRecipe
from tests.support.corpus import jpeg, write_csv, write_tar
from tests.support.models import save_llm, save_tokenizer

IMAGES = 6
LANGS = ("en", "de", "zh", "fr", "cs")


@dataclass(frozen=True)
class TinyTowers:
    """Sources of random weights: a Llama with two blocks, a ViT, a convolutional tower."""

    llm: str
    vit: str
    conv: str


def save_towers(folder: Path) -> TinyTowers:
    ensure_torchvision()
    import timm

    save_llm(folder / "llm")
    save_tokenizer(folder / "llm")
    (folder / "llm" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    for name in ("test_vit", "test_efficientnet"):
        torch.manual_seed(0)
        torch.save(timm.create_model(name, num_classes=3).state_dict(), folder / f"{name}.pth")
    return TinyTowers(*(f"dir:{folder / name}" for name in ("llm", "test_vit.pth", "test_efficientnet.pth")))


def shrink(recipe: Recipe, towers: TinyTowers, *, steps: int = 2, batch: int = 4) -> Recipe:
    """The recipe with tiny towers, few steps and small batches; all other fields are unchanged."""
    captions = replace(
        recipe.stage1,
        text=_text(recipe.stage1.text, towers),
        loop=_loop(recipe.stage1.loop, steps),
        batch_size=batch,
        micro_batch=3,
    )
    model, augmentation = recipe.stage2.model, recipe.stage2.augmentation
    vision = _vision(model.vision, towers)
    side = round(augmentation.size * vision.preprocess.height / model.vision.preprocess.height)
    clip = replace(
        recipe.stage2,
        model=replace(model, vision=vision, text=_text(model.text, towers)),
        augmentation=replace(augmentation, size=side),
        loop=_loop(recipe.stage2.loop, steps),
        batch_size=batch,
        micro_batch=3,
    )
    shards = {pattern: re.sub(r"{.*}", "00000", pattern) for pattern in recipe.data.images}
    source = [replace(s, path=shards.get(s.path, s.path)) for s in (*recipe.data.captions, *recipe.data.image_captions)]
    count = len(recipe.data.captions)
    data = replace(
        recipe.data, images=tuple(shards.values()), captions=tuple(source[:count]), image_captions=tuple(source[count:])
    )
    return replace(recipe, data=data, stage1=captions, stage2=clip)


def of_flickr8k(recipe: Recipe) -> Recipe:
    """The recipe of `nano` without its data apart from Flickr8k and Multi30k, see `write_flickr8k`."""
    data = recipe.data
    return replace(
        recipe,
        data=replace(
            data,
            captions=data.captions[:2],
            images=data.images[:1],
            image_captions=data.image_captions[:1],
            dev=data.dev[:1],
        ),
    )


def _text(text: TextConfig, towers: TinyTowers) -> TextConfig:
    return replace(text, weights=towers.llm, hidden_layers=text.hidden_layers if text.hidden_layers == (-1,) else (1,))


def _vision(vision: VisionConfig, towers: TinyTowers) -> VisionConfig:
    convolutional = "efficientnet" in vision.architecture
    side = 64 if convolutional else 160
    return replace(
        vision,
        library="timm",
        architecture="test_efficientnet" if convolutional else "test_vit",
        weights=towers.conv if convolutional else towers.vit,
        pooled_modules=("blocks.3", "blocks.4") if vision.pooled_modules else (),
        preprocess=replace(vision.preprocess, height=side, width=side),
    )


def _loop(loop: LoopRecipe, steps: int) -> LoopRecipe:
    return replace(
        loop, steps=steps, warmup_steps=min(1, loop.warmup_steps), evaluate_every=min(steps, loop.evaluate_every)
    )


def write_web_data(root: Path) -> None:
    """Write shards like those of img2dataset from DreamLIP's tables."""
    for corpus in ("cc3m", "cc3m-cc12m"):
        members: dict[str, bytes] = {}
        for number in range(IMAGES):
            row = {
                "caption": f"web text {number}",
                "shortSV_captions": f"thing {number} on a table",
                "longSV_captions": f"The image shows thing {number}, which stands on a table in a room.",
                "key": f"{number:09d}",
            }
            members |= {f"{number:09d}.jpg": jpeg(number), f"{number:09d}.json": json.dumps(row).encode()}
        write_tar(root / corpus / "00000.tar", members)


def write_nano_data(root: Path) -> None:
    """Write data in the layout that `nano` is trained on, with its dev splits."""
    write_flickr8k(root)
    splits = {"coco": ("restval", "val"), "coco_train": ("train",), "rsicd": ("train", "val"), "flowers": ("train",)}
    for number, (name, parts) in enumerate({**splits, "ade20k": ("dev",)}.items(), 1):
        rows = []
        for part, split in enumerate(parts):
            images = {f"{name}-{split}-{n}.jpg": jpeg(1000 * number + 100 * part + n) for n in range(IMAGES)}
            captions = [f"{name} {place} {split} thing" for place in range(2)]
            rows += [
                {"image_id": image, "split": split, "lang": "en", "caption": f"{caption} {n}"}
                for n, image in enumerate(images)
                for caption in captions
            ]
            write_tar(root / name / f"{name.replace('_', '-')}-{split}-000.tar".replace("train-train", "train"), images)
        write_csv(root / name / "captions.csv.gz", rows)
    long = [
        {"image": f"coco-restval-{n}.jpg", "lang": "en", "caption": f"In this picture, thing {n}."} for n in range(2)
    ]
    write_csv(root / "coco" / "long_captions.csv.gz", long)


def write_flickr8k(root: Path) -> None:
    """Write the part of `nano`'s data that `of_flickr8k` leaves."""
    rows = []
    for split, first in (("train", 0), ("dev", 100)):
        names = [f"{split}-{number}.jpg" for number in range(IMAGES)]
        rows += [
            {"image_id": name, "split": split, "lang": lang, "caption": f"{lang} {place} {split} thing {number}"}
            for number, name in enumerate(names)
            for lang in LANGS
            for place in range(5 if lang == "en" else 1)
        ]
        write_tar(root / "flickr8k" / f"flickr8k-{split}-000.tar", {n: jpeg(first + i) for i, n in enumerate(names)})
    write_csv(root / "flickr8k" / "captions.csv.gz", rows)
    texts = [
        {"image_id": f"other-{number}.jpg", "lang": lang, "caption": f"{lang} other thing {number}"}
        for number in range(IMAGES)
        for lang in LANGS
    ]
    write_csv(root / "multi30k" / "captions.csv.gz", texts)
