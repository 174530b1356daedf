"""Types of images that need an extra or that nothing here reads, told by file extension and by first bytes.

Skipped files are counted with `of_name`, and what is in a file that Pillow does not open is told with `describe`.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import PurePath

from PIL import Image

HEAD_BYTES = 512
"""First bytes of a file that `of_content` and `describe` need."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageType:
    """A type of image file that not every installation reads."""

    name: str
    extensions: tuple[str, ...]
    """Lower case, with the dot."""
    extra: str = ""
    """The extra of this package that reads it; empty if nothing here does."""
    plugin: str = ""
    """Pillow's name of the reader that the extra brings, once `register_plugins` was called."""
    module: str = ""
    """Package that reads it if Pillow does not."""

    @property
    def lack(self) -> str:
        """Why files of this type are not read, to follow their count: ``needs the extra [heif]``."""
        return f"needs the extra [{self.extra}]" if self.extra else f"no reader for {self.name}"

    @property
    def is_read(self) -> bool:
        """Whether its reader is installed."""
        if self.module:
            return find_spec(self.module) is not None
        return bool(self.plugin) and self.plugin in Image.OPEN

    @property
    def hint(self) -> str:
        """How to have such files read; empty if there is no way."""
        return f"Install it with: pip install 'llm2clip-search[{self.extra}]'." if self.extra else ""


UNKNOWN = "not an image that Pillow can read"
"""What `describe` says of bytes that it does not know."""

AVIF = ImageType(name="AVIF", extensions=(".avif", ".avifs"), plugin="AVIF")
HEIC = ImageType(name="HEIC", extensions=(".heic", ".heif", ".hif", ".heics", ".heifs"), extra="heif", plugin="HEIF")
JPEG_XL = ImageType(name="JPEG XL", extensions=(".jxl",), extra="jxl", plugin="JXL")
CAMERA_RAW = ImageType(
    name="camera RAW",
    extensions=(
        *(
            ".cr2",
            ".cr3",
            ".crw",
            ".nef",
            ".nrw",
            ".arw",
            ".srf",
            ".sr2",
            ".dng",
            ".raf",
            ".orf",
            ".ori",
            ".rw2",
            ".rwl",
        ),
        *(".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".mef", ".mos", ".mrw", ".kdc", ".dcr", ".erf", ".gpr"),
    ),
    extra="raw",
    module="rawpy",
)
JPEG_XR = ImageType(name="JPEG XR", extensions=(".jxr", ".wdp", ".hdp"))
BPG = ImageType(name="BPG", extensions=(".bpg",))
DJVU = ImageType(name="DjVu", extensions=(".djvu", ".djv"))
HIGH_DYNAMIC_RANGE = ImageType(name="high-dynamic-range images", extensions=(".exr", ".hdr"))
VECTOR = ImageType(
    name="vector drawings",
    extensions=(".svg", ".svgz", ".ai", ".cdr", ".eps", ".wmf", ".emf", ".sketch", ".afdesign"),
)
PROJECT = ImageType(
    name="projects of image editors",
    extensions=(".xcf", ".psb", ".kra", ".ora", ".clip", ".pdn", ".afphoto", ".procreate"),
)

IMAGE_TYPES = (AVIF, HEIC, JPEG_XL, CAMERA_RAW, JPEG_XR, BPG, DJVU, HIGH_DYNAMIC_RANGE, VECTOR, PROJECT)

_BY_EXTENSION = {extension: each for each in IMAGE_TYPES for extension in each.extensions}
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"), HEIC),
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    b"crx ": CAMERA_RAW,
}
"""Major brands of ISO media files; ``mif1`` may hold AVIF too, which Pillow opens."""
_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"
"""How JPEG XL files begin, bare or in boxes."""
_SIGNATURES: tuple[tuple[int, bytes, ImageType], ...] = (
    (0, _CODESTREAM, JPEG_XL),
    (0, _CONTAINER, JPEG_XL),
    (0, b"FUJIFILMCCD-RAW", CAMERA_RAW),
    (8, b"CR", CAMERA_RAW),  # Canon CR2, after a TIFF header
    (0, b"IIRO", CAMERA_RAW),  # Olympus
    (0, b"IIRS", CAMERA_RAW),
    (0, b"MMOR", CAMERA_RAW),
    (0, b"IIU\x00", CAMERA_RAW),  # Panasonic
    (0, b"\x00MRM", CAMERA_RAW),  # Minolta
    (0, b"FOVb", CAMERA_RAW),  # Sigma
    (6, b"HEAPCCDR", CAMERA_RAW),  # Canon CRW
    (0, b"II\xbc\x01", JPEG_XR),
    (0, b"BPG\xfb", BPG),
    (0, b"AT&TFORM", DJVU),
    (0, b"v/1\x01", HIGH_DYNAMIC_RANGE),  # OpenEXR
    (0, b"#?RADIANCE", HIGH_DYNAMIC_RANGE),
    (0, b"%!PS", VECTOR),
    (0, b"\xc5\xd0\xd3\xc6", VECTOR),  # EPS with a preview
    (0, b"gimp xcf", PROJECT),
    (0, b"8BPS\x00\x02", PROJECT),  # Photoshop's large documents
)
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"PK\x05\x06", "a ZIP archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (4, b"ftyp", "a video"),
    (4, b"moov", "a video"),
    (4, b"mdat", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),  # Matroska, WebM
    (8, b"AVI ", "a video"),
    (0, b"FLV\x01", "a video"),
    (0, b"\x00\x00\x01\xba", "a video"),
    (0, b"\x30\x26\xb2\x75", "a video"),  # Windows Media
    (8, b"WAVE", "a sound file"),
    (0, b"ID3", "a sound file"),
    (0, b"OggS", "a sound or video file"),
    (0, b"fLaC", "a sound file"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"SQLite format 3\x00", "a database"),
    (0, b"\x00\x05\x16\x07", "the macOS attributes of another file"),
    (0, b"version https://git-lfs", "a Git LFS pointer to the image, which was not fetched"),
    (0, b"\xd0\xcf\x11\xe0", "a document of an earlier Microsoft Office"),
)
_NOT_IMAGES = frozenset({".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".wmf", ".emf", ".h5", ".hdf", ".grib", ".bufr"})
"""Extensions that Pillow registers but that are documents, films or need another program."""
_TEXTS = ((b"<!doctype html", "a web page"), (b"<html", "a web page"), (b"<?xml", "an XML document"))
"""First words of text files that people mistake for images, in lower case."""


@cache
def register_plugins() -> None:
    """Register HEIC and JPEG XL with Pillow if their extras are installed; Pillow itself reads AVIF."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401 - its import registers it


def image_extensions() -> frozenset[str]:
    """Lower-case extensions, with the dot, that Pillow and the packages of the installed extras read."""
    register_plugins()
    formats = Image.registered_extensions()  # makes Pillow load its readers, which are in `Image.OPEN` only then
    readable = {ext for ext, name in formats.items() if name in Image.OPEN or name == "MPO"}  # JPEG's opens MPO too
    return frozenset(readable).union(CAMERA_RAW.extensions if CAMERA_RAW.is_read else ()) - _NOT_IMAGES


def of_name(path: str | PurePath) -> ImageType | None:
    """The type that a file's extension stands for; None if Pillow always reads it, or no image has it."""
    return _BY_EXTENSION.get(PurePath(path).suffix.lower())


def of_content(head: bytes) -> ImageType | None:
    """The type of a file that begins with these bytes, at least `HEAD_BYTES` of them; None if it is another."""
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return _BRANDS[head[8:12]]
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    text = _text(head)
    return VECTOR if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text) else None


def describe(head: bytes) -> str:
    """What a file that Pillow does not open is, by its first bytes, to follow its name and a colon."""
    if not head:
        return "the file is empty"
    if head[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+") and of_content(head) is None:
        return "a damaged TIFF image"
    if not head.strip(b"\x00"):
        return "not an image: it holds nothing but zeros"
    if (kind := of_content(head)) is not None:
        if kind.is_read:
            return f"a damaged {kind.name} image"
        return f"a {kind.name} image, which {kind.lack}" if kind.extra else f"not read: there is {kind.lack}"
    other = next((name for offset, mark, name in _OTHERS if head.startswith(mark, offset)), "")
    other = other or next((name for mark, name in _TEXTS if _text(head).startswith(mark)), "")
    return f"not an image but {other}" if other else UNKNOWN


def _text(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()


def jxl_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG XL file declares; None for other files. Its reader decodes when it opens a file."""
    if not data.startswith(_CODESTREAM):
        return _boxed_jxl_size(data) if data.startswith(_CONTAINER) else None
    bits = int.from_bytes(data[2:14].ljust(12, b"\x00"), "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def side(small: int) -> int:
        return 8 * (take(5) + 1) if small else 1 + take((9, 13, 18, 30)[take(2)])

    # SizeHeader of ISO/IEC 18181-1: a height, then a width or its ratio to the height.
    small = take(1)
    height = side(small)
    ratio = take(3)
    if ratio == 0:
        return side(small), height
    numerator, denominator = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return height * numerator // denominator, height


def _boxed_jxl_size(data: bytes) -> tuple[int, int] | None:
    position = 0
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        start = position + 8
        if length == 1:
            length, start = int.from_bytes(data[start : start + 8]), start + 8
        start += 4 * (kind == b"jxlp")
        if kind in (b"jxlc", b"jxlp"):
            return jxl_size(data[start : start + 16]) if data.startswith(_CODESTREAM, start) else None
        if length < 8:
            return None
        position += length
    return None
