"""Training images as pixels for the vision tower, decoded in threads or in processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.isolation import isolated
from llm2clip_search.errors import CorpusError, ImageError, first_line
from llm2clip_search.training.data.augmentation import Augmentation, read_view
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
        *,
        threads: int,
        isolate: bool = False,
    ) -> None:
        """Start the decoding threads.

        Args:
            captions: the texts of the whole caption table; augmentation has to keep them true.
            threads: that read, decode and augment.
            isolate: whether each thread has a process that decodes for it, where the system allows it (`isolation`):
                threads of one process wait for its interpreter, and do not keep up with a GPU.
        """
        self.files, self.preprocess, self.augmentation = files, preprocess, augmentation
        self._view_preprocess = augmentation.input_of(preprocess)
        self.captions, self.seed = captions, seed
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._read_view: Callable[..., np.ndarray] = partial(isolated, read_view) if isolate else read_view

    def plain(
        self, image_ids: Sequence[str], files: ImageSet | None = None, preprocess: PreprocessConfig | None = None
    ) -> np.ndarray:
        """Pixels uint8 ``[n, H, W, 3]`` without augmentation, as the tower takes them or by another ``preprocess``."""
        read = partial(self._read, files=files or self.files, preprocess=preprocess or self.preprocess)
        return np.stack(list(self._threads.map(read, image_ids)))

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
        draws = generator(self.seed, step, "augment", int(row))
        augment = partial(self.augmentation, captions=texts, generator=draws)
        return self._read(image_id, self.files, self._view_preprocess, augment)

    def _read(
        self,
        image_id: str,
        files: ImageSet,
        preprocess: PreprocessConfig,
        augment: Callable[[Image.Image], Image.Image] | None = None,
    ) -> np.ndarray:
        try:
            return self._read_view(files.read(image_id), preprocess, augment)
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
