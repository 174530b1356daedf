"""Memory of decoding: estimated by the header, refused above the bound, and shared by threads."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from llm2clip_search.encoders.decode_memory import BYTES_PER_PIXEL, MEMORY, MemoryBudget, decoding_bytes
from llm2clip_search.encoders.images import reading
from llm2clip_search.errors import ImageError
from tests.support.odd_files import chunk, exif_block, saved, scene


def test_estimates_follow_mode_and_format() -> None:
    picture = scene(1, (100, 80))

    def estimate(image: Image.Image, kind: str, **options: object) -> float:
        with Image.open(io.BytesIO(saved(image, kind, **options))) as opened:
            return decoding_bytes(opened, full_size=opened.size) / 8000

    assert estimate(picture.convert("L"), "PNG") == 5
    assert estimate(picture, "PNG") == estimate(picture, "JPEG") == 8
    assert estimate(Image.fromarray(np.zeros((80, 100), np.uint16)), "PNG") == 6
    assert estimate(picture, "JPEG", progressive=True) == 14
    assert estimate(picture, "WEBP") == 16


def test_an_image_over_the_whole_bound_is_refused_by_its_header() -> None:
    data = saved(scene(1, (300, 200)), "JPEG", progressive=True)
    with reading(data, max_pixels=60_000) as picture:
        assert picture.damage is None
    many = saved(scene(1, (300, 200)), "WEBP")
    with pytest.raises(ImageError, match="over the limit") as caught:
        MemoryBudget().hold(BYTES_PER_PIXEL * 60_000 + 1, max_pixels=60_000).__enter__()
    assert "--max-pixels" in caught.value.hint
    with pytest.raises(ImageError, match="60,000 pixels, over the limit of 59,999"), reading(many, max_pixels=59_999):
        pass


def test_threads_wait_for_their_share() -> None:
    """Five holders of two fifths each: never more than two at once, and all get their turn."""
    budget, lock = MemoryBudget(), threading.Lock()
    inside = most = 0

    def work(_: int) -> None:
        nonlocal inside, most
        with budget.hold(4 * BYTES_PER_PIXEL, max_pixels=10):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(20)))
    assert most == 2


def test_memory_is_given_back_when_decoding_fails() -> None:
    """Each of these takes most of the bound; were it kept, the second would wait for ever."""
    data = saved(scene(1, (300, 200)), "PNG")
    for _ in range(3):
        with pytest.raises(ImageError, match="of its pixels"), reading(data[: len(data) // 2], max_pixels=60_000):
            pass
        with reading(data, max_pixels=60_000) as picture:
            assert picture.size == (300, 200)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_nothing_is_decoded_before_its_memory_is_held(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut PNG is decoded once before its repaired versions are."""
    steps = []
    real_load, real_hold = ImageFile.ImageFile.load, MEMORY.hold

    def load(image: ImageFile.ImageFile) -> Any:
        if image.tile:
            steps.append("decode")
        return real_load(image)

    def hold(needed: int, *, max_pixels: int) -> AbstractContextManager[None]:
        steps.append("hold")
        return real_hold(needed, max_pixels=max_pixels)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr(MEMORY, "hold", hold)
    data = saved(scene(1, (300, 200)), kind)
    with reading(data) as picture:
        assert picture.damage is None
    assert steps[0] == "hold"
    if kind == "PNG":
        steps.clear()
        with reading(data[:-2000]) as picture:
            assert picture.damage is not None
        assert steps == ["hold", "decode", "hold", "decode", "decode"]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_png_is_upright_wherever_its_exif_data_are(is_late: bool) -> None:
    shown = scene(1, (300, 200))
    data = saved(shown.transpose(Image.Transpose.ROTATE_90), "PNG")
    at = data.index(b"IEND" if is_late else b"IDAT") - 4
    block = chunk(b"eXIf", exif_block(orientation=6)[6:])
    with reading(data[:at] + block + data[at:]) as picture:
        assert (picture.size, picture.damage, picture.exif[0x0112]) == (shown.size, None, 6)
        assert picture.rgb.tobytes() == shown.tobytes()
