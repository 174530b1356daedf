"""Videos that a test writes itself."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

from tests.support.images import photograph


def moving(count: int, *, size: tuple[int, int] = (96, 64), scenes: Sequence[int] = ()) -> list[np.ndarray]:
    """Frames of a camera that pans: uint8 ``[height, width, 3]``; ``scenes`` are the frames that begin another one."""
    frames = []
    for number in range(count):
        scene = sum(number >= begin for begin in scenes)
        wide = np.asarray(photograph(50 + scene, (size[0] + count, size[1])))
        frames.append(np.ascontiguousarray(wide[:, number : number + size[0]]))
    return frames


def write_video(
    path: Path,
    frames: Iterable[np.ndarray | Image.Image],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 24,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
) -> Path:
    """A video.

    Args:
        times: of the frames, in units of ``1 / rate`` seconds; None for one after the other.
        aspect: of a pixel.
        matrix: the first two columns of the display matrix, ``a b c d``.
    """
    with av.open(str(path), "w", container_options=container or {}) as output:
        stream: VideoStream | None = None
        for number, each in enumerate(frames):
            pixel_data = np.asarray(each)
            if stream is None:
                stream = cast("VideoStream", output.add_stream(codec, rate=rate, options=options or {}))
                stream.height, stream.width = pixel_data.shape[:2]
                stream.pix_fmt = pixels
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
                if matrix is not None:
                    a, b, c, d = (value << 16 for value in matrix)
                    stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
            frame = av.VideoFrame.from_ndarray(pixel_data, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, rate)
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path
