"""Image augmentation that keeps captions true."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from llm2clip_search.encoders.config import PreprocessConfig
from llm2clip_search.encoders.images import reading, to_pixels
from llm2clip_search.training.runtime.allowed_values import require_values

_SIDES = re.compile(
    r"\b(?:left|right)\w*|\b(?:links|rechts)\w*|\b(?:linke|rechte)[mnrs]?\b"
    r"|\b(?:gauche|droite?)s?\b|\b(?:do|na|v|z)?(?:lev|prav)(?:o|a|á|é|ého|ém|ému|ou|ý|ých|ým|ými|í)\b|左|右",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to a training image before it is resized to the tower's input."""

    crop: float = 0.9
    """Smallest fraction of the image's area that a crop keeps (LLM2CLIP: 0.9). Small crops cut off things that
    captions mention."""
    aspect: float = 1.0
    """Largest factor by which a crop's aspect ratio differs from the image's."""
    flip: bool = False
    """Mirror half of the images whose captions do not mention left or right."""
    colour: float = 0.0
    """Largest relative change of brightness, contrast and saturation; hue is kept, because captions name colours."""
    size: int = 0
    """Height of the augmented image in pixels, its width in proportion; 0 for that of the tower's input. Crops show
    things larger than whole images do, so a tower often does better on a larger input than it was trained on (Touvron
    et al., arXiv 1906.06423). The tower has to take images of any size."""

    def __post_init__(self) -> None:
        require_values(
            self,
            {
                "crop": (0.0 < self.crop <= 1.0, "greater than 0 and at most 1"),
                "aspect": (1.0 <= self.aspect < math.inf, "at least 1"),
                "colour": (0.0 <= self.colour <= 1.0, "between 0 and 1"),
                "size": (self.size >= 0, "at least 0"),
            },
        )

    def input_of(self, preprocess: PreprocessConfig) -> PreprocessConfig:
        """The preprocessing of an augmented image, for a tower with this preprocessing of whole ones."""
        if not self.size:
            return preprocess
        width, resize_to = (
            round(self.size * side / preprocess.height) for side in (preprocess.width, preprocess.resize_to)
        )
        return replace(preprocess, height=self.size, width=width, resize_to=resize_to)

    def __call__(self, image: Image.Image, captions: list[str], generator: np.random.Generator) -> Image.Image:
        """Return an augmented RGB image."""
        width, height = image.size
        area, stretch = generator.uniform(self.crop, 1.0), self.aspect ** generator.uniform(-0.5, 0.5)
        # Limit the stretch so that no side exceeds the image, which would reduce the crop's area.
        stretch = min(max(stretch, area**0.5), area**-0.5)
        crop_width = min(width, max(1, round(width * (area**0.5) * stretch)))
        crop_height = min(height, max(1, round(height * (area**0.5) / stretch)))
        left = int(generator.integers(width - crop_width + 1))
        top = int(generator.integers(height - crop_height + 1))
        if (crop_width, crop_height) != (width, height):
            image = image.crop((left, top, left + crop_width, top + crop_height))
        if self.flip and generator.random() < 0.5 and not any(map(names_a_side, captions)):
            image = ImageOps.mirror(image)
        if self.colour:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhance(image).enhance(1.0 + generator.uniform(-self.colour, self.colour))
        return image


def read_view(
    data: bytes, preprocess: PreprocessConfig, augment: Callable[[Image.Image], Image.Image] | None = None
) -> np.ndarray:
    """Decode an image file and resize its image: pixels uint8 ``[height, width, 3]``.

    Args:
        augment: changes the decoded image first.

    Raises:
        ImageError: it cannot be decoded.
    """
    with reading(data) as picture:
        image = picture.rgb
    return to_pixels(augment(image) if augment else image, preprocess)


def names_a_side(caption: str) -> bool:
    """Whether a caption mentions left or right, in English, German, French, Czech or Chinese."""
    return _SIDES.search(caption) is not None
