"""Search as one writes it in thirty lines with open_clip, PyTorch and FAISS.

``script.py index IMAGES INDEX WEIGHTS`` and ``script.py query INDEX WEIGHTS CAPTION``.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import faiss
import open_clip
import torch
from PIL import Image
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset

ARCHITECTURE = "ViT-B-32-256"


class Images(Dataset[torch.Tensor]):
    def __init__(self, paths: list[str], preprocess: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths, self.preprocess = paths, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.preprocess(Image.open(self.paths[row]))


@torch.inference_mode()
def index(images: str, folder: str, weights: str) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(ARCHITECTURE, pretrained=weights)
    paths = sorted(str(path) for path in Path(images).rglob("*.jpg"))
    loader = DataLoader(Images(paths, preprocess), batch_size=32, num_workers=2)
    vectors = torch.cat([normalize(model.eval().encode_image(batch), dim=-1) for batch in loader]).numpy()
    found = faiss.IndexFlatIP(vectors.shape[1])
    found.add(vectors)
    Path(folder).mkdir(parents=True)
    faiss.write_index(found, f"{folder}/vectors.faiss")
    Path(folder, "paths.json").write_text(json.dumps(paths))


@torch.inference_mode()
def query(folder: str, weights: str, caption: str) -> None:
    model = open_clip.create_model(ARCHITECTURE, pretrained=weights).eval()
    vector = normalize(model.encode_text(open_clip.get_tokenizer(ARCHITECTURE)([caption])), dim=-1).numpy()
    _, rows = faiss.read_index(f"{folder}/vectors.faiss").search(vector, 10)
    paths = json.loads(Path(folder, "paths.json").read_text())
    sys.stdout.writelines(f"{paths[row]}\n" for row in rows[0])


if __name__ == "__main__":
    {"index": index, "query": query}[sys.argv[1]](*sys.argv[2:])
