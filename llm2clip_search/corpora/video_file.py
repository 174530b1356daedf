"""An open video: its frames in order, with their times, in the shape in which they are shown."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.reformatter import Interpolation

from llm2clip_search.corpora.files import Files
from llm2clip_search.errors import CorpusError, first_line

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

SHORT_SIDE = 672
"""Pixels of the shorter side of a frame, if it has more: twice what vision towers read."""
LONG_SIDE = 4096
"""Pixels of the longer side at most."""
_DECODED_PIXELS = 1 << 27
"""Pixels of a frame that is decoded; an 8K frame has a quarter of them."""
_FORMATS = "mov,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg,mxf"
"""FFmpeg's names of the formats that are read. Others, such as playlists, could lead to further files and URLs."""
_TOLERANCE = 2.0
"""Seconds that a whole file may end before the end that it states."""
_SCALER = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
"""Gives the same bytes on every processor."""


class _Turn(NamedTuple):
    """How the frames of a video are rotated and flipped."""

    transposes: bool = False
    rows: int = 1
    """Step of the rows then: -1 if the last is shown first."""
    columns: int = 1

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels ``[height, width, 3]`` as they are shown."""
        return (pixels.transpose(1, 0, 2) if self.transposes else pixels)[:: self.rows, :: self.columns]


def _turn_of(frame: "VideoFrame") -> _Turn:
    """What the display matrix of a frame says: columns ``x`` and rows ``y`` become ``a x + c y`` and ``b x + d y``.

    To be asked once: a frame whose side data were looked at is in a cycle of references, and keeps its memory.
    """
    sides: Any = frame.side_data
    matrix = sides.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return _Turn()
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    transposes = abs(b) > abs(a)
    rows, columns = (b, c) if transposes else (d, a)
    return _Turn(transposes, -1 if rows < 0 else 1, -1 if columns < 0 else 1)


@dataclass(frozen=True)
class Frame:
    """A decoded frame."""

    time: float
    """When it is shown: seconds since the start, to the millisecond."""
    _frame: "VideoFrame"
    _aspect: float
    """Width of a pixel by its height."""
    _turn: _Turn

    @property
    def name(self) -> str:
        """The time as a part's URI has it: without zeros at its end."""
        return f"{self.time:.3f}".rstrip("0").rstrip(".")

    def pixels(self) -> np.ndarray:
        """uint8 ``[height, width, 3]`` as it is shown, with square pixels and of bounded size."""
        width, height = self._frame.width * max(1.0, self._aspect), self._frame.height / min(1.0, self._aspect)
        scale = min(1.0, SHORT_SIDE / min(width, height), LONG_SIDE / max(width, height))
        return self._turn.apply(self.scaled(max(1, round(scale * width)), max(1, round(scale * height))))

    def scaled(self, width: int, height: int) -> np.ndarray:
        """uint8 ``[height, width, 3]``, not rotated."""
        frame = self._frame.reformat(width, height, "rgb24", interpolation=int(_SCALER), threads=1)
        return np.asarray(frame.to_ndarray(), dtype=np.uint8)


class Video:
    """An open video."""

    def __init__(self, container: "InputContainer", stream: "VideoStream", uri: str) -> None:
        self._container, self._stream, self._uri = container, stream, uri
        self._start = (container.start_time or 0) / av.time_base
        self.codec: str = stream.codec_context.codec.canonical_name.upper()

    def seek(self, time: float) -> bool:
        """Go to a frame from which that of a time can be decoded; False if the file does not allow it."""
        assert self._stream.time_base, "streams of files have one"
        try:
            self._container.seek(round((max(0.0, time) + self._start) / self._stream.time_base), stream=self._stream)
        except av.FFmpegError:
            return False
        return True

    def frames(self) -> Iterator[Frame]:
        """The frames from here on, each later than the last; those that cannot be decoded are left out.

        Raises:
            OSError: the file cannot be read.
            CorpusError: it is cut or damaged, so that nothing follows.
        """
        aspect = float(self._stream.sample_aspect_ratio or 1)
        aspect = aspect if 0.1 < aspect < 10 else 1.0
        last, end, turn = -1.0, 0.0, None
        try:
            for packet in self._container.demux():
                if packet.pts is not None and packet.time_base:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - self._start)
                if packet.stream.index != self._stream.index:
                    continue
                for frame in _decoded(packet):
                    time = self._time(frame)
                    if time is not None and time > last and not frame.is_corrupt:
                        last, turn = time, turn or _turn_of(frame)
                        yield Frame(time, frame, aspect, turn)
        except av.FFmpegError as error:
            raise CorpusError(f"{self._uri} cannot be read on after {end:.1f} s: {_reason(error)}.") from error
        stated = (self._container.duration or 0) / av.time_base
        if end < stated - max(_TOLERANCE, 0.02 * stated):
            raise CorpusError(f"{self._uri} ends after {end:.1f} of {stated:.1f} s.")

    def _time(self, frame: "VideoFrame") -> float | None:
        ticks = frame.dts if frame.pts is None else frame.pts
        if ticks is None or frame.time_base is None:
            return None
        return round(float(ticks * frame.time_base) - self._start, 3) + 0.0  # -0.0 as 0.0


def _decoded(packet: Any) -> "list[VideoFrame]":
    try:
        frames: list[VideoFrame] = packet.decode()
    except av.FFmpegError:
        return []
    return frames


class _Source:
    """A file that FFmpeg reads; in damaged files it looks for places that there are not, and goes on without them."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.tell = file.read, file.tell
        self._file = file

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            return -errno.EINVAL


@contextmanager
def open_video(files: Files, uri: str) -> Iterator[Video]:
    """A video that is closed in any case: what PyAV opens keeps its memory until then.

    Raises:
        OSError: the file cannot be read.
        CorpusError: it is no video, or damaged.
    """
    with files.open(uri) as file:
        try:
            container = av.open(
                _Source(file), mode="r", container_options={"format_whitelist": _FORMATS}, metadata_errors="replace"
            )
        except av.FFmpegError as error:
            raise CorpusError(f"{uri} cannot be read as a video: {_reason(error)}.") from error
        with container:
            yield Video(container, _stream(container, uri), uri)


def _stream(container: "InputContainer", uri: str) -> "VideoStream":
    """The video among the streams, without pictures that only decorate a sound file."""
    videos = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not videos:
        raise CorpusError(f"{uri} has no video, but {_others(container)}.")
    stream = max(videos, key=lambda each: (bool(each.disposition & Disposition.default), -each.index))
    if stream.codec_context is None:
        raise CorpusError(f"{uri} has video of a kind that is not decoded here.")
    stream.codec_context.options = {"max_pixels": str(_DECODED_PIXELS)}
    stream.thread_type = "AUTO"
    return stream


def _others(container: "InputContainer") -> str:
    return " and ".join(sorted({each.type for each in container.streams})) or "nothing"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or first_line(error)).lower()
