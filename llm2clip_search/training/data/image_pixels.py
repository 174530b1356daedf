"""Training images as pixels for the vision tower, decoded in threads."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PIL import Image

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.images import reading, to_pixels
from llm2clip_search.errors import CorpusError, ImageError, first_line
from llm2clip_search.training.data.augmentation import Augmentation
from llm2clip_search.training.data.image_set import ImageSet
from llm2clip_search.training.runtime.seeds import generator


class ImagePixels:
    """Reads, augments and resizes images. A view depends only on the seed, the step and the row."""

    def __init__(
        self,
        files: ImageSet,
        preprocess: PreprocessConfig,
        augmentation: Augmentation,
        captions: Sequence[str],
        seed: int,
    ) -> None:
        """Start the decoding threads.

        Args:
            captions: the texts of the whole caption table; augmentation has to keep them true.
        """
        self.files, self.preprocess, self.augmentation = files, preprocess, augmentation
        self._view_preprocess = augmentation.input_of(preprocess)
        self.captions, self.seed = captions, seed
        self._threads = ThreadPoolExecutor(thread_name_prefix="decode")

    def plain(
        self, image_ids: Sequence[str], files: ImageSet | None = None, preprocess: PreprocessConfig | None = None
    ) -> np.ndarray:
        """Pixels uint8 ``[n, H, W, 3]`` without augmentation, as the tower takes them or by another ``preprocess``."""
        chosen = preprocess or self.preprocess
        return np.stack(list(self._threads.map(lambda i: to_pixels(self._open(i, files), chosen), image_ids)))

    def augmented(
        self, image_ids: Sequence[str], captions: Sequence[np.ndarray], step: int, rows: Sequence[int]
    ) -> "AugmentedPixels":
        """Begin to decode one augmented view of each image.

        Args:
            captions: for each image, the rows of its captions in the caption table.
            step: seeds the augmentation, together with ``rows``.
            rows: one number per image.
        """
        views = zip(image_ids, captions, rows, strict=True)
        return AugmentedPixels(
            [self._threads.submit(self._view, image, shown, step, row) for image, shown, row in views]
        )

    def _view(self, image_id: str, shown: np.ndarray, step: int, row: int) -> np.ndarray:
        texts = [self.captions[caption] for caption in shown]
        image = self.augmentation(self._open(image_id), texts, generator(self.seed, step, "augment", int(row)))
        return to_pixels(image, self._view_preprocess)

    def _open(self, image_id: str, files: ImageSet | None = None) -> Image.Image:
        try:
            with reading((files or self.files).read(image_id)) as picture:
                return picture.rgb
        except ImageError as error:
            raise CorpusError(f"Training image {image_id!r} cannot be read: {first_line(error)}.") from error


class AugmentedPixels:
    """Pixels of augmented views, which are being decoded."""

    def __init__(self, views: Sequence["Future[np.ndarray]"]) -> None:
        self._views = views

    def wait(self) -> np.ndarray:
        """The pixels, uint8 ``[n, H, W, 3]``, of the augmentation's size.

        Raises:
            CorpusError: an image cannot be read.
        """
        return np.stack([view.result() for view in self._views])
