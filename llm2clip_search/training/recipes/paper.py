"""The recipes of Huang et al. (arXiv 2411.04997): two Llamas, six vision towers, two corpora.

Values are those of the paper's sixth version (appendix C) and, where it does not give them, of the released code.
Differences: stage 1 does not mix in the 1.5 million text pairs of E5 (a further `CaptionSource` with an empty
``image`` would add them); there is no masked-token warm-up, which the sixth version dropped too; captions are not
wrapped in Llama's chat template. The vision towers keep their own projections and get another one on top, where the
original replaces them.

The data folder holds webdataset shards of 10,000 images, as img2dataset writes them from the tables of DreamLIP
(Zheng et al., arXiv 2403.17007; ``qidouxiong619/dreamlip_long_captions`` on the hub)::

    img2dataset --url_list cc3m.csv --input_format csv --url_col "Image Path" --caption_col raw_caption \\
        --save_additional_columns '["shortSV_captions", "longSV_captions"]' \\
        --output_format webdataset --output_folder DATA/cc3m --resize_mode keep_ratio --image_size 384

``DATA/cc3m`` is made from CC3M's table. ``DATA/cc3m-cc12m`` is made by one call for a folder with both tables, so that
no two images have the same name. The captions are in the ``.json`` members of the shards.
"""

from dataclasses import dataclass
from typing import Literal

from llm2clip_search.encoders.config import AdaptorConfig, ModelConfig, PreprocessConfig, TextConfig, VisionConfig
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.caption_table import CaptionColumn, CaptionSource
from llm2clip_search.training.data.pairs import Instructions
from llm2clip_search.training.data.recipe import DataRecipe, DataSize
from llm2clip_search.training.recipes.recipe import Recipe
from llm2clip_search.training.runtime.loop import LoopRecipe
from llm2clip_search.training.tasks.caption_llm import CaptionLLMRecipe
from llm2clip_search.training.tasks.clip_recipe import ClipRecipe
from llm2clip_search.training.tasks.lora import LoraRecipe
from llm2clip_search.training.tasks.vision_training import VisionTraining

_LLMS = {
    "llama3.2-1b": "hf:meta-llama/Llama-3.2-1B-Instruct",
    "llama3-8b": "hf:meta-llama/Meta-Llama-3-8B-Instruct",
}

_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class _Tower:
    """A vision tower of open_clip, with the paper's settings for it."""

    architecture: str
    weights: str
    side: int = 224
    """Pixels."""
    dim: int = 1280
    loss: Literal["clip", "siglip"] = "clip"
    resize: Literal["shortest", "squash"] = "shortest"
    mean: tuple[float, ...] = _OPENAI_MEAN
    std: tuple[float, ...] = _OPENAI_STD


_TOWERS = {
    "openai-b16": _Tower(architecture="ViT-B-16-quickgelu", weights="openai"),
    "openai-l14": _Tower(architecture="ViT-L-14-quickgelu", weights="openai"),
    "openai-l14-336": _Tower(architecture="ViT-L-14-336-quickgelu", weights="openai", side=336),
    "eva02-b16": _Tower(architecture="EVA02-B-16", weights="merged2b_s8b_b131k"),
    "eva02-l14-336": _Tower(architecture="EVA02-L-14-336", weights="merged2b_s6b_b61k", side=336),
    "siglip2-so400m-224": _Tower(
        architecture="ViT-SO400M-14-SigLIP2",
        weights="webli",
        dim=1152,
        loss="siglip",
        resize="squash",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
}


@dataclass(frozen=True, kw_only=True)
class _Corpus:
    """Shards of a corpus, their number of images (from the original's ``run.sh``), and its terms."""

    shards: str
    images: int
    terms: tuple[str, ...]


_CC3M_TERMS = "CC3M (Sharma et al. 2018): images belong to their authors; recaptioned by DreamLIP, CC BY 4.0"
_CC12M_TERMS = "CC12M (Changpinyo et al. 2021): images belong to their authors; recaptioned by DreamLIP, CC BY 4.0"
_CORPORA = {
    "cc3m": _Corpus(shards="cc3m/{00000..00287}.tar", images=2_873_538, terms=(_CC3M_TERMS,)),
    "cc3m-cc12m": _Corpus(
        shards="cc3m-cc12m/{00000..01288}.tar",
        images=2_873_538 + 10_000_225,
        terms=(_CC3M_TERMS, _CC12M_TERMS),
    ),
}

_RAW = CaptionColumn(name="caption", lang="en")
"""The column given as ``--caption_col``, as img2dataset names it."""
_SHORT = CaptionColumn(name="shortSV_captions", lang="en")
_LONG = CaptionColumn(name="longSV_captions", lang="en", length="long")

_TOKENS = 100
"""Mean over web captions, of about 20 tokens, and ShareGPT4V captions, of about 180 (826 characters; Chen et al.,
arXiv 2311.12793, table 1), in equal numbers."""
_STAGE1_BATCH, _STAGE1_EPOCHS = 512, 1
_STAGE2_BATCH, _STAGE2_EPOCHS = 4096, 4


def _recipe(llm: str, tower: str, corpus: str) -> Recipe:
    chosen, data = _TOWERS[tower], _CORPORA[corpus]
    name = f"{llm}-{tower}-{corpus}"
    text = TextConfig(library="llm", weights=_LLMS[llm], max_tokens=512)
    return Recipe(
        name=name,
        data=DataRecipe(
            captions=(CaptionSource(path=data.shards, image="__key__", columns=(_SHORT, _LONG)),),
            images=(data.shards,),
            image_captions=(CaptionSource(path=data.shards, image="__key__", columns=(_RAW, _LONG)),),
        ),
        size=DataSize(photographs=data.images, images=data.images, captions=2 * data.images, tokens=_TOKENS),
        stage1=CaptionLLMRecipe(
            text=text,
            lora=LoraRecipe(rank=16, alpha=32, dropout=0.05),
            loop=LoopRecipe(
                steps=data.images * _STAGE1_EPOCHS // _STAGE1_BATCH,
                learning_rate=2e-4,
                warmup_steps=300,
                checkpoint_every=500,
            ),
            batch_size=_STAGE1_BATCH,
            micro_batch=64,
            gradient_cache=True,
            gradient_checkpointing=True,
            temperature=0.02,
            lang_weights={},
            instructions=Instructions(
                short_to_long="Given a sentence, retrieve a detailed relevant sentence",
                long_to_short="Given a detailed sentence, retrieve a short relevant sentence",
            ),
            max_train_tokens=512,
        ),
        stage2=ClipRecipe(
            model=ModelConfig(
                name=name,
                dim=chosen.dim,
                vision=VisionConfig(
                    library="open_clip",
                    architecture=chosen.architecture,
                    weights=chosen.weights,
                    projection=True,
                    preprocess=PreprocessConfig(
                        height=chosen.side,
                        width=chosen.side,
                        resize=chosen.resize,
                        mean=chosen.mean,
                        std=chosen.std,
                    ),
                ),
                text=TextConfig(
                    library="llm",
                    weights=_LLMS[llm],
                    max_tokens=512,
                    adaptor=AdaptorConfig(blocks=4, normalises=chosen.loss == "clip"),
                ),
                licence="Llama 3 Community License (LLM); terms of the vision tower's and the data's authors",
                training_data=data.terms,
            ),
            loop=LoopRecipe(
                steps=data.images * _STAGE2_EPOCHS // _STAGE2_BATCH,
                learning_rate=1e-5,
                weight_decay=0.05,
                betas=(0.9, 0.98),  # CLIP's values for a ViT; LLM2CLIP gives none
                clip_norm=5.0,
                checkpoint_every=500,
            ),
            batch_size=_STAGE2_BATCH,
            micro_batch=32,
            gradient_cache=True,
            loss=chosen.loss,
            temperature=0.01,  # the final value of CLIP's own training
            long_ratio=0.5,
            vision=VisionTraining(mode="full", layer_decay=0.85),
            augmentation=Augmentation(crop=0.9),
            bf16=True,
        ),
    )


PAPER_RECIPES = tuple(_recipe(llm, tower, corpus) for llm in _LLMS for tower in _TOWERS for corpus in _CORPORA)
"""``<LLM>-<vision tower>-<corpus>``, such as ``llama3.2-1b-openai-l14-336-cc3m``."""
