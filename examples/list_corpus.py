"""A corpus of twenty lines, the images of a Python list, indexed and searched.

python examples/list_corpus.py
"""

import io
import tempfile
from collections.abc import Iterator

from colour_words import ColourWords
from PIL import Image

from llm2clip_search import Corpus, Item, index_corpus, open_index


class ListCorpus(Corpus):
    """PIL images; an image's URI is its number in the list."""

    uri = "list://images"

    def __init__(self, images: list[Image.Image]) -> None:
        self.images = images

    def items(self) -> Iterator[Item]:
        for number in range(len(self.images)):
            yield Item(uri=f"{self.uri}/{number}")

    def open(self, item: Item) -> bytes:
        png = io.BytesIO()
        self.images[int(item.uri.rpartition("/")[2])].save(png, "PNG")
        return png.getvalue()


def main() -> None:
    encoder = ColourWords()
    corpus = ListCorpus([Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue", "yellow")])
    with tempfile.TemporaryDirectory() as folder:
        summary = index_corpus(corpus, encoder=encoder, index=folder)
        print(f"{summary.indexed} images indexed")
        for hit in open_index(folder, encoder=encoder).query("a red square on a green field", k=2).hits:
            print(f"{hit.score:.3f} {hit.uri}")


if __name__ == "__main__":
    main()
