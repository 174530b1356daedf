"""Which columns of a table hold images, texts, or names of images, told from their types, names and first values."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa

from llm2clip_search.corpora.files import files_of
from llm2clip_search.corpora.options import SourceOptions
from llm2clip_search.corpora.table_files import TableFile
from llm2clip_search.corpora.table_formats import open_table
from llm2clip_search.encoders import image_types
from llm2clip_search.encoders.image_types import image_extensions
from llm2clip_search.encoders.reading import open_image
from llm2clip_search.errors import CorpusError, ImageError

IMAGE_NAMES = ("image", "img", "picture", "photo", "image_bytes", "img_bytes", "jpg", "jpeg", "png", "webp", "bytes")
"""Usual names of columns with the bytes of images, in lower case."""
TEXT_NAMES = ("text", "caption", "captions", "sentence", "sentences", "passage", "content", "document", "abstract")
"""Usual names of columns with texts; the first that a table has is taken."""
CAPTION_NAMES = ("caption", "text", "alt_text", "alt")
"""Usual names of the column that describes an image; LAION's is TEXT."""
PLACE_NAMES = (
    *("url", "image_url", "img_url", "image_uri", "uri", "link", "image_link", "thumbnail_url"),
    *("path", "image_path", "img_path", "filepath", "file_path", "file", "file_name", "filename", "image_file"),
    *("image_file_name", "image_filename", "image_name", "image", "img", "picture", "photo", "src"),
)
"""Usual names of columns with paths or URLs of images, in the order in which they are taken."""
KEY_NAMES = ("key", "__key__", "name", "stem", "image_id", "photo_id", "id")
"""Further usual names of columns that say which image a row describes."""
_HEAD = 32
"""Rows that are looked at to tell what a column holds."""
_BASE64 = re.compile(
    r"(data:image/[a-z0-9.+-]+;base64,)?(/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk0|SUkq|TU0AK)[A-Za-z0-9+/=\s]*"
)
"""How the first bytes of JPEG, PNG, GIF, WebP, BMP and TIFF files look in base64."""


def kind_of_table(uri: str, options: SourceOptions | None = None) -> Literal["table", "list"]:
    """Whether a table holds images or texts, or a list of paths or URLs of images.

    Raises:
        OSError, CorpusError: it cannot be read.
    """
    options = options or SourceOptions()
    if options.modality == "text":
        return "table"
    files = files_of(uri, options)
    table = open_table(files, uri, files.status(uri).version)
    schema = table.schema()
    if options.image is not None and options.image in schema.names:
        is_text = is_string(schema.field(options.image).type)
        return "list" if is_text and not _holds(table, [options.image], is_base64) else "table"
    if columns_of_images(table):
        return "table"
    return "list" if place_column(table, None) else "table"


def image_columns(table: TableFile, wanted: str | None) -> tuple[str, ...]:
    """The columns with images: the one that is wanted, or all that hold some.

    Raises:
        CorpusError: there is none; the message names the columns.
    """
    schema = table.schema()
    if wanted is not None:
        check_column(table.uri, schema, wanted)
        kind = schema.field(wanted).type
        if not (_may_hold_images(kind) or is_string(kind)):
            raise CorpusError(f"Column {wanted!r} of {table.uri} has the type {kind}, which holds no images.")
        return (wanted,)
    if found := columns_of_images(table):
        return found
    raise CorpusError(f"No column of {table.uri} holds images; {_has(schema)}.", hint="Name it with --image.")


def columns_of_images(table: TableFile) -> tuple[str, ...]:
    """Columns of image structs; else binary columns whose first values are images, or of a usual name; else base64."""
    schema = table.schema()
    structs = [each.name for each in schema if _may_hold_images(each.type) and not is_binary(_element(each.type))]
    if structs:
        return tuple(structs)
    binary = [each.name for each in schema if is_binary(_element(each.type))]
    if found := _holds(table, binary, is_image):
        return found
    if found := tuple(name for name in binary if name.casefold() in IMAGE_NAMES):
        return found
    strings = [each.name for each in schema if is_string(each.type)]
    return tuple(binary) if len(binary) == 1 else _holds(table, strings, is_base64)


def text_column(table: TableFile, wanted: str | None) -> str:
    """The column with texts: the one that is wanted, one of a usual name, or the only one.

    Raises:
        CorpusError: there is none, or several of no usual name.
    """
    schema = table.schema()
    if wanted is not None:
        check_column(table.uri, schema, wanted)
        kind = schema.field(wanted).type
        if pa.types.is_nested(_element(kind)) or is_binary(_element(kind)):
            raise CorpusError(f"Column {wanted!r} of {table.uri} has the type {kind}, which holds no texts.")
        return wanted
    strings = [each.name for each in schema if is_string(_element(each.type))]
    usual = _first_named(strings, TEXT_NAMES)
    if usual is None and len(strings) != 1:
        raise CorpusError(
            f"Which column of {table.uri} holds the texts cannot be told; {_has(schema)}.", hint="Name it with --text."
        )
    return usual or strings[0]


def place_column(table: TableFile, wanted: str | None) -> str | None:
    """The column with paths or URLs of images; None if there is none.

    It is the wanted one; or one of a usual name whose first values may be paths or URLs; or the first one whose first
    values are paths of images, or URLs, beyond doubt.

    Raises:
        CorpusError: the wanted column is not there.
    """
    schema = table.schema()
    if wanted is not None:
        check_column(table.uri, schema, wanted)
        return wanted
    strings = [each.name for each in schema if is_string(each.type)]
    usual = [name for name in strings if name.casefold() in PLACE_NAMES]
    found = _first_named(_holds(table, usual, is_place), PLACE_NAMES)
    return found or next(iter(_holds(table, strings, is_place_of_image)), None)


def key_column(table: TableFile) -> str:
    """The column of a table of metadata that names the items: one of a usual name, else the first of texts.

    Raises:
        CorpusError: there is none.
    """
    schema = table.schema()
    strings = [each.name for each in schema if is_string(each.type)]
    if (found := _first_named(schema.names, (*PLACE_NAMES, *KEY_NAMES)) or next(iter(strings), None)) is None:
        raise CorpusError(
            f"Which column of {table.uri} names the items cannot be told; {_has(schema)}.", hint="Use --on."
        )
    return found


def caption_column(names: Sequence[str]) -> str | None:
    """The column that describes the image; None if there is none of a usual name."""
    return _first_named(names, CAPTION_NAMES)


def check_column(uri: str, schema: pa.Schema, wanted: str) -> None:
    """Raise unless a table has a column.

    Raises:
        CorpusError: the message names those that it has.
    """
    if wanted not in schema.names:
        raise CorpusError(f"{uri} has no column {wanted!r}; {_has(schema)}.")


def _has(schema: pa.Schema) -> str:
    return f"it has {', '.join(schema.names)}" if schema.names else "it has no columns"


def _first_named(names: Sequence[str], usual: Sequence[str]) -> str | None:
    lower = {name.casefold(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), None)


def is_binary(kind: pa.DataType) -> bool:
    """Whether values are bytes."""
    types = pa.types
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def is_string(kind: pa.DataType) -> bool:
    """Whether values are texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists."""
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def _element(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if is_list(kind) else kind


def _may_hold_images(kind: pa.DataType) -> bool:
    """Bytes, the struct of bytes and path that `datasets` writes, or a list of either."""
    kind = _element(kind)
    is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return is_binary(kind.field("bytes").type if is_struct else kind)


def _head(table: TableFile, columns: Sequence[str]) -> Mapping[str, list[Any]]:
    """The first values of some columns that are not null, lists opened."""
    rows = next(table.rows(columns, size=_HEAD), None) if columns else None
    values = {} if rows is None else rows.batch.to_pydict()
    return {name: list(islice(_opened(values.get(name, [])), _HEAD)) for name in columns}


def _opened(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if value is not None:
            yield from value if isinstance(value, list) else [value]


def _holds(table: TableFile, columns: Sequence[str], test: Any) -> tuple[str, ...]:
    """Columns whose first values are of a kind: most of them, since some may be damaged."""
    head = _head(table, columns)
    return tuple(name for name in columns if head[name] and sum(map(test, head[name])) * 2 > len(head[name]))


def is_image(data: Any) -> bool:
    """Whether bytes begin as an image file does."""
    try:
        open_image(data).close()
    except ImageError:
        return image_types.of_content(data[: image_types.HEAD_BYTES]) is not None
    return True


def is_base64(text: str) -> bool:
    """Whether a text is an image file in base64."""
    return len(text) > 64 and _BASE64.match(text[:128]) is not None


def from_base64(text: str) -> bytes:
    """The bytes of an image in base64, with or without ``data:image/...;base64,`` before it.

    Raises:
        ValueError: it is not base64.
    """
    return base64.b64decode(text.partition("base64,")[2] or text)


def is_place(text: str) -> bool:
    """Whether a text may be a URL or the path of a file: one line that is not long."""
    return 0 < len(text) <= 4096 and "\n" not in text


def is_place_of_image(text: str) -> bool:
    """Whether a text is an http URL, or ends as the name of an image file does."""
    suffix = PurePosixPath(text).suffix.casefold()
    return is_place(text) and (
        text.startswith(("http://", "https://"))
        or suffix in image_extensions()
        or image_types.of_name(text) is not None
    )
