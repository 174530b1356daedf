"""Frames of videos: ``clip.mp4#t=12.5``, in seconds, as W3C media fragments name them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from zlib import crc32

import numpy as np

from llm2clip_search.corpora.columns import digest
from llm2clip_search.corpora.container import Container
from llm2clip_search.corpora.corpus import Item, Modality
from llm2clip_search.corpora.files import Files
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.ppm import ppm
from llm2clip_search.errors import CorpusError, ImageError

if TYPE_CHECKING:
    from llm2clip_search.corpora.video_file import Frame

EVERY = 2.0
"""Seconds between two frames, unless the caller says otherwise."""
SCENE_CHANGE = 27.0
"""Mean difference of hue (0 to 179), saturation and value (0 to 255) between two frames that makes a new scene: the
measure and the default of PySceneDetect's ContentDetector."""
SHORTEST_SCENE = 0.6
"""Seconds; a change that comes earlier begins its scene after them, so that flashes and fades give few frames."""
_SMALL = (64, 36)
"""Width and height of frames that are compared."""
_EARLIER = (0.0, 2.0, 10.0, 60.0, None)
"""Seconds before a frame from which decoding it is tried; None is from the start."""


class VideoContainer(Container):
    """Frames of a video, in order: the first one at or after each multiple of ``options.every`` seconds, or the first
    one of each scene.

    Times are those that a player shows, in seconds to the millisecond. A frame has its display's shape: it is rotated
    as the file says, and its pixels are made square. Its version is ``CHECKSUM@`` and that of the file, by which `open`
    sees that a frame which was decoded from the middle is the one that was listed.
    """

    kind = "video"
    suffixes = frozenset(
        (
            *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".vob", ".mts", ".m2ts", ".wmv"),
            *(".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf"),
        )
    )
    modalities: frozenset[Modality] = frozenset({"image"})

    def __init__(self) -> None:
        self.extra = "" if find_spec("av") else "video"

    def parts(self, files: Files, container: Item, options: SourceOptions) -> Iterator[Item]:
        from llm2clip_search.corpora.video_file import open_video

        every = EVERY if options.every is None else options.every
        with open_video(files, container.uri) as video:
            columns = {"format": video.codec}
            frame_of = replace(container, is_container=False, columns=columns, described=digest(columns))
            is_empty = True
            for frame in _spaced(video.frames(), every) if every else _scenes(video.frames()):
                is_empty = False
                data = ppm(frame.pixels())
                yield replace(
                    frame_of,
                    uri=f"{container.uri}#t={frame.name}",
                    version=f"{crc32(data):08x}@{container.version}" if container.version else "",
                    data=data,
                    size=len(data),
                )
            if is_empty:
                raise CorpusError(f"{container.uri} has no frame that can be decoded.")

    def open(self, files: Files, item: Item, options: SourceOptions = SourceOptions()) -> bytes:
        from llm2clip_search.corpora.video_file import open_video

        uri, part = self.split(item.uri)
        name, (checksum, is_known, _) = parse_qs(part)["t"][0], item.version.partition("@")
        data = None
        try:
            for earlier in _EARLIER:
                with open_video(files, uri) as video:
                    if earlier is not None and not video.seek(float(name) - earlier):
                        continue
                    frame = next((each for each in video.frames() if each.time >= float(name)), None)
                    if frame is not None and frame.name == name:
                        data = ppm(frame.pixels())
                        if not is_known or f"{crc32(data):08x}" == checksum:
                            return data
        except CorpusError as error:
            raise ImageError(str(error).removesuffix("."), stage="read") from error
        if data is None:
            raise FileNotFoundError(f"{uri} has no frame at {name} s any more")
        return data  # another version of the decoder may differ by a bit


def _spaced(frames: Iterable["Frame"], every: float) -> "Iterator[Frame]":
    """The first frame at or after each multiple of ``every`` seconds; one that is shown for longer comes once."""
    due = 0
    for frame in frames:
        if frame.time >= due * every:
            due = int(frame.time / every) + 1
            yield frame


def _scenes(frames: Iterable["Frame"]) -> "Iterator[Frame]":
    """The first frame of each scene."""
    from PIL import Image

    before, begun, is_due = None, 0.0, True
    for frame in frames:
        small = Image.fromarray(frame.scaled(*_SMALL)).convert("HSV")
        colours = np.asarray(small).astype(np.float32) * (179 / 255, 1.0, 1.0)
        if before is None:
            begun, is_due = frame.time, False
            yield frame
        elif is_due or np.abs(colours - before).mean() > SCENE_CHANGE:
            is_due = frame.time - begun < SHORTEST_SCENE
            if not is_due:
                begun = frame.time
                yield frame
        before = colours
