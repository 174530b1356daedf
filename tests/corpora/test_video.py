"""Frames of videos."""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from llm2clip_search.base.memory import resident_bytes
from llm2clip_search.corpora.containers import open_uri
from llm2clip_search.corpora.corpus import Item
from llm2clip_search.corpora.files import LocalFiles
from llm2clip_search.corpora.named import item_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.video import VideoContainer
from llm2clip_search.errors import CorpusError, ImageError
from tests.support.images import photograph
from tests.support.videos import moving, write_sound, write_video

KINDS: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {"options": {"bf": "3", "g": "24"}},
    "fragments.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "ten_bits.mp4": {"pixels": "yuv420p10le"},
    "open_groups.mts": {"options": {"bf": "3", "g": "24", "x264-params": "open-gop=1"}},
    "no_key_frames.mts": {"options": {"x264-params": "intra-refresh=1"}},
    "a.mkv": {"options": {"g": "300"}},
    "a.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}},
    "a.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "a.mpg": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "a.flv": {"codec": "flv"},
    "a.wmv": {"codec": "wmv2"},
    "a.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "grey16.mkv": {"codec": "ffv1", "pixels": "gray16le"},
}


def frames(path: Path, every: float | None = None, version: str = "v1") -> Iterator[Item]:
    container = Item(uri=str(path), version=version, is_container=True)
    return VideoContainer().parts(LocalFiles(), container, SourceOptions(every=every))


def times(path: Path, every: float | None = None) -> list[str]:
    return [item.uri.partition("#t=")[2] for item in frames(path, every)]


def picture(item: Item) -> Image.Image:
    assert item.data is not None
    return Image.open(io.BytesIO(item.data))


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, dtype=float) - np.asarray(other.convert("RGB"), dtype=float)).mean())


@pytest.mark.parametrize("name", KINDS)
def test_frames_open_to_the_bytes_that_were_listed(tmp_path: Path, name: str) -> None:
    shown = moving(120)
    path = write_video(tmp_path / name, shown, **KINDS[name])
    items = list(frames(path, 0.7))
    found = [float(item.uri.partition("#t=")[2]) for item in items]
    assert found[1:] == [0.708, 1.417, 2.125, 2.833, 3.5, 4.208, 4.917]
    assert 0 <= found[0] <= 0.042
    for time, item in zip(found, items, strict=True):
        grey = "gray" in KINDS[name].get("pixels", "")
        frame = Image.fromarray(shown[min(119, round(24 * time))])
        assert difference(picture(item), frame.convert("L") if grey else frame) < 16
        assert open_uri(item.uri, item.version) == item.data
        assert item.size == len(item.data or b"")
    assert len({item.version for item in items}) == len(items)
    assert all(item.version.endswith("@v1") for item in items)


def test_frames_come_every_two_seconds_by_default(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(50), rate=10)
    assert times(path) == ["0", "2", "4"]
    assert times(path, 2) == times(path)
    assert times(path, 0.25) == [f"{-(-5 * number // 2) / 10:g}" for number in range(20)]
    assert times(path, 3600) == ["0"]
    assert [item.columns for item in frames(path, 3600)] == [{"format": "H264"}]


def test_a_frame_that_is_shown_for_long_comes_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", moving(5), rate=10, times=[0, 3, 100, 101, 155])
    assert times(path, 2) == ["0", "10", "15.5"]


def test_scenes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(120, scenes=[40, 75]))
    assert times(path, 0) == ["0", "1.667", "3.125"]
    flash = moving(100)
    flash[50] = np.full_like(flash[50], 255)
    assert times(write_video(tmp_path / "b.mp4", flash), 0) == ["0", "2.083", "2.708"]
    assert times(write_video(tmp_path / "c.mp4", moving(100)), 0) == ["0"]


MATRICES = {
    (1, 0, 0, 1): None,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_frames_are_turned_as_a_player_shows_them(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    photo, turn = photograph(3, (96, 64)), MATRICES[matrix]
    path = write_video(tmp_path / "a.mp4", [photo] * 3, matrix=matrix)
    [item] = frames(path)
    expected = photo if turn is None else photo.transpose(turn)
    assert picture(item).size == expected.size
    assert difference(picture(item), expected) < 8
    assert open_uri(item.uri, item.version) == item.data


def test_pixels_become_square_and_size_is_bounded(tmp_path: Path) -> None:
    def size(width: int, height: int, aspect: Fraction | None = None) -> tuple[int, int]:
        photo = photograph(1, (width, height))
        [item] = frames(write_video(tmp_path / "a.mkv", [photo] * 2, pixels="yuv444p", aspect=aspect))
        return picture(item).size

    assert size(97, 65) == (97, 65)
    assert size(72, 58, Fraction(16, 11)) == (105, 58)
    assert size(72, 58, Fraction(8, 9)) == (72, 65)
    assert size(1920, 1080) == (1195, 672)
    assert size(1080, 1920) == (672, 1195)
    assert size(6000, 32) == (4096, 22)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"container": {"movflags": "faststart"}}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}),
    ],
)
def test_what_is_before_a_cut_is_indexed(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """One frame a second up to the cut."""
    whole = write_video(tmp_path / f"whole-{name}", moving(200), rate=10, **options)
    (tmp_path / name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    before, listing = list[Item](), frames(tmp_path / name, 1)
    with pytest.raises(CorpusError, match=rf"{name} ends after \d+\.\d of 20\.0 s") as caught:
        before.extend(listing)
    ended = float(str(caught.value).partition("ends after ")[2].split()[0])
    assert 2 <= ended < 16  # encoders use several threads, so that the size of their files varies
    assert len(before) == int(ended) + 1
    for item, of_whole in zip(before, frames(whole, 1), strict=False):
        assert item.data == of_whole.data == open_uri(item.uri, item.version)


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", moving(48)).read_bytes()
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{tmp_path}/whole.mp4\n#EXT-X-ENDLIST\n"
    empty = tmp_path / "empty.mkv"
    with av.open(str(empty), "w") as output:
        stream = output.add_stream("ffv1", rate=24)
        stream.width, stream.height = 64, 48
        output.start_encoding()
        for number in range(9):
            junk = av.Packet(b"junk" * 9)
            junk.stream, junk.pts, junk.dts, junk.time_base = stream, number, number, Fraction(1, 24)
            output.mux(junk)
    cases = {
        "cannot be read as a video: (invalid data|end of file)": [b"", b"junk" * 9999, playlist.encode(), whole[:-600]],
        "has no video, but audio": [write_sound(tmp_path / "sound.m4a").read_bytes()],
        "has no frame that can be decoded": [empty.read_bytes()],
    }
    for said, contents in cases.items():
        for data in contents:
            (tmp_path / "a.mp4").write_bytes(data)
            with pytest.raises(CorpusError, match=said):
                list(frames(tmp_path / "a.mp4"))
    with pytest.raises(FileNotFoundError):
        list(frames(tmp_path / "gone.mp4"))
    with pytest.raises(FileNotFoundError, match="has no frame at 0 s any more"):
        VideoContainer().open(LocalFiles(), Item(uri=f"{empty}#t=0"))
    with pytest.raises(ImageError, match="has no video"):
        VideoContainer().open(LocalFiles(), Item(uri=f"{tmp_path}/sound.m4a#t=0"))
    with pytest.raises(FileNotFoundError, match="has no frame at 7 s any more"):
        VideoContainer().open(LocalFiles(), Item(uri=f"{tmp_path}/whole.mp4#t=7"))


def test_damage_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", moving(240), options={"g": "12"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 800] = b"\xff" * 800
    path.write_bytes(data)
    found = [float(time) for time in times(path, 0.5)]
    assert 15 <= len(found) <= 20
    assert found[-1] >= 9


def test_nothing_stays_open(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(60))

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))

    item = next(frames(path))
    before = held()
    listing = iter(frames(path, 0.1))
    next(listing)
    assert held() != before  # the file, and threads that decode
    del listing
    assert held() == before
    VideoContainer().open(LocalFiles(), item)
    with pytest.raises(FileNotFoundError):
        VideoContainer().open(LocalFiles(), Item(uri=f"{path}#t=7"))
    assert held() == before


def test_memory_is_flat(tmp_path: Path) -> None:
    photo = photograph(1, (640, 480))
    path = write_video(tmp_path / "a.mp4", [photo] * 250, options={"preset": "ultrafast"})
    held = [resident_bytes() for _ in frames(path, 0.01)]
    assert len(held) == 250
    assert held[-1] < held[50] + (24 << 20)  # 200 frames have 90 MB


def test_versions_follow_the_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving(4))
    [one], [other], [unknown] = frames(path), frames(path, version="v2"), frames(path, version="")
    assert one.version != other.version
    assert unknown.version == ""
    assert open_uri(unknown.uri) == one.data
    status = LocalFiles().status(str(path))
    [known] = VideoContainer().parts(LocalFiles(), item_of(status, is_container=True), SourceOptions())
    assert known.version.endswith(f"@{status.version}")
    assert known.mtime_ns == status.mtime_ns
