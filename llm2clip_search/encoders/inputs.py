"""What callers may pass: one caption or several, one image or several, and images as arrays.

Every encoder's methods are called with what comes from here (see `Encoder`), so that a string is never taken for a
list of letters, and an array never for something that its values are not.
"""

import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, Union

import numpy as np

from llm2clip_search.errors import ImageError, InputError, first_line

if TYPE_CHECKING:
    from PIL import Image

# Only `Union` takes a name that is not imported yet, as `|` does from Python 3.14 on.
ImageInput: TypeAlias = Union[str, os.PathLike[str], bytes, BinaryIO, "Image.Image", np.ndarray]
"""One image:

- the path of a file, in which ``~`` is the home folder; the bytes of a file, or a file that is open for reading bytes;
- a PIL image;
- an array ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (with transparency) of integers in 0..255, of
  floats in 0..1 (or in 0..255, if any is 2 or more), or of booleans; or a tensor of another library of that kind.
"""

ROUNDING = 1e-3
"""What floats may lie outside their range, as a share of it, because of rounding."""


def captions_of(texts: object) -> list[str]:
    """Captions of one string, or of any iterable of strings: a list, generator, array or column of a table.

    Raises:
        InputError: anything else; the message names the first value that is not a string.
    """
    if isinstance(texts, np.ndarray) and texts.ndim == 0:
        texts = texts.item()
    if isinstance(texts, str):
        texts = [texts]
    captions = list(_several(texts, "Captions are a string or an iterable of strings"))
    for number, caption in enumerate(captions, start=1):
        if not isinstance(caption, str):
            raise InputError(f"Caption {number} of {len(captions)} is not a string but {_described(caption)}.")
    return [str(caption) for caption in captions]  # numpy's strings become Python's


def images_of(images: object) -> Iterator[ImageInput]:
    """Images of one image, or of any iterable of images, or of a batch ``[n, H, W, 3]``.

    Raises:
        InputError: something that is neither.
    """
    if is_image(images):
        yield images  # type: ignore[misc]
        return
    if not is_array(images):
        yield from _several(images, "Images are paths, bytes, PIL images or arrays, one or an iterable of them")
        return
    array = as_array(images)
    if array.ndim == 4:
        yield from array
    elif (array.dtype.kind in "OUT" or array.size == 0) and array.ndim < 2:
        yield from array.reshape(-1).tolist()
    else:
        yield array


def is_image(value: object) -> bool:
    """True for one image that is not an array."""
    from PIL import Image

    return isinstance(value, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or hasattr(value, "read")


def is_array(value: object) -> bool:
    """True for arrays and tensors of any library, and columns of tables; a table has values of many kinds."""
    return (hasattr(value, "__array__") or hasattr(value, "__array_interface__")) and not hasattr(value, "columns")


def image_bytes(source: Any) -> bytes | None:
    """The content of an image file that is given as bytes or as an open file; None for any other image.

    Raises:
        ImageError: the file is not open for reading bytes, or is at its end.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if not hasattr(source, "read") or is_array(source):
        return None
    try:
        data = source.read()
    except (OSError, ValueError) as error:  # closed, or not for reading
        raise ImageError(f"The open file cannot be read: {first_line(error)}.", stage="read") from error
    if not isinstance(data, bytes):
        raise ImageError("The open file gives text; open it for reading bytes, with mode 'rb'.", stage="read")
    if not data:
        raise ImageError("The open file is at its end; seek(0) goes back to its start.", stage="read")
    return data


def as_array(source: Any) -> np.ndarray:
    """An array or a tensor of any library as a numpy array.

    Raises:
        InputError: the library does not give one, for example of a type that numpy does not have.
    """
    try:
        if hasattr(source, "detach"):  # a PyTorch tensor, perhaps on a GPU or part of a graph
            source = source.detach().cpu()
        return np.asarray(source)
    except Exception as error:  # libraries raise what they like
        raise InputError(f"{type(source).__name__} does not become a numpy array: {first_line(error)}.") from error


def array_image(source: Any) -> "Image.Image":
    """A PIL image (modes L, RGB, RGBA) of an array, as `ImageInput` describes.

    Raises:
        ImageError: another shape or type, or values outside the range; the message says what to change.
    """
    array = as_array(source)
    shape = list(array.shape)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"The image array is {shape}, with colour first; move it to the end, as np.moveaxis(array, -3, -1) does.",
            stage="decode",
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in shape:
        raise ImageError(f"An image array is [H, W] or [H, W, 1|3|4], not {shape}.", stage="decode")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(_in_bytes(array)))


def _in_bytes(array: np.ndarray) -> np.ndarray:
    """The values of an image array as uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise ImageError(f"An image array holds integers or floats, not {array.dtype}.", stage="decode")
    low, high = array.min(), array.max()
    found = f"The image array holds {array.dtype} values from {low:g} to {high:g}"
    if array.dtype.kind in "iu":
        if low < 0 or high > 255:
            raise ImageError(f"{found}; integers are in 0..255. Scale them, 16-bit values by 1/257.", stage="decode")
        return array.astype(np.uint8)
    if not np.isfinite(array).all():
        raise ImageError("The image array holds values that are not finite (NaN or infinity).", stage="decode")
    top = 1.0 if high < 2 else 255.0
    if low < -ROUNDING * top or high > (1 + ROUNDING) * top:
        raise ImageError(
            f"{found}; floats are in 0..1 or in 0..255. Undo a normalisation, or clip what lies outside.",
            stage="decode",
        )
    scaled = np.clip(array.astype(np.float32) / np.float32(top), 0.0, 1.0) * np.float32(255.0)
    rounded: np.ndarray = scaled.round().astype(np.uint8)
    return rounded


def _several(values: object, accepted: str) -> Iterable[Any]:
    """The values of an iterable, unless iterating over it gives something else than it seems to hold."""
    if isinstance(values, Mapping | Set | bytes | bytearray | memoryview) or hasattr(values, "columns"):
        kind = "has no order" if isinstance(values, Set) else "pass its values or one of its columns"
        if isinstance(values, bytes | bytearray | memoryview):
            kind = "decode it first"
        raise InputError(f"{accepted}, not {_described(values)}; {kind}.")
    if hasattr(values, "to_pylist"):  # a column of Arrow's, whose values are not Python's
        return list(values.to_pylist())
    if not isinstance(values, Iterable):
        raise InputError(f"{accepted}, not {_described(values)}.")
    return values


def _described(value: object) -> str:
    """A value that is not accepted, as a message names it."""
    if value is None:
        return "None"
    kind, text = type(value), reprlib.repr(value)
    return f"{kind.__name__} ({text})" if kind.__module__ == "builtins" and len(text) <= 40 else kind.__name__
