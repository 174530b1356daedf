"""Random weights of ViT-B-32-256 in the forms that the programs read; no hub has to be reached.

``python -m llm2clip_search.benchmarks.perf.peers.weights FOLDER`` writes them. Speed does not depend on the values.
"""

import shutil
import sys
from pathlib import Path

import torch
from torch import nn

from llm2clip_search.benchmarks.perf.peers.tools import ARCHITECTURE, CHECKPOINT, RCLIP
from llm2clip_search.encoders.random_weights import write_random_weights

_RCLIP_MODEL = "ViT-B-32-256-datacomp_s34b_b86k"


class _Encode(nn.Module):
    """One tower of an open_clip model."""

    def __init__(self, model: nn.Module, method: str) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = getattr(self.model, self.method)(values)
        return embedded


def write_weights(folder: Path) -> None:
    """Write `CHECKPOINT` and the folder `RCLIP`."""
    model = write_random_weights(ARCHITECTURE, folder / CHECKPOINT)
    import open_clip  # after torchvision's operators have been made sure of

    towers = folder / RCLIP / _RCLIP_MODEL
    towers.mkdir(parents=True)
    side = open_clip.get_model_config(ARCHITECTURE)["vision_cfg"]["image_size"]
    _export(_Encode(model, "encode_image"), torch.zeros(2, 3, side, side), towers / "visual.onnx")
    _export(_Encode(model, "encode_text"), open_clip.tokenize(["a dog", "a cat"]), towers / "textual.onnx")
    vocabulary = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    (folder / RCLIP / "tokenizer").mkdir()
    shutil.copy(vocabulary, folder / RCLIP / "tokenizer" / vocabulary.name)


def _export(tower: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write a tower with the names that rclip asks for."""
    torch.backends.mha.set_fastpath_enabled(False)  # its operator has no form in ONNX
    with torch.inference_mode():
        torch.onnx.export(
            tower,
            (example,),
            str(path),
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "n"}, "output": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )


if __name__ == "__main__":
    write_weights(Path(sys.argv[1]))
