"""``/uploads``: pictures to search with, in memory for a while."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct
from starlette.responses import Response

from llm2clip_search.server.api.images import Width, picture_response
from llm2clip_search.server.endpoint import Call, Endpoint
from llm2clip_search.server.pictures.rendering import THUMBNAILS
from llm2clip_search.server.pictures.uploads import KEPT_S, Upload
from llm2clip_search.server.problems import Problem

UploadId = Annotated[str, Meta(max_length=64, pattern=r"^[\w-]+$", description="Id of an upload.")]


class UploadAnswer(Struct, kw_only=True, frozen=True):
    """A picture that was uploaded."""

    id: str
    width: int
    """Pixels, upright."""
    height: int
    expires: datetime
    """Unless it is used before."""


class UploadQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An upload."""

    id: UploadId


class UploadThumbnailQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An upload as a thumbnail."""

    id: UploadId
    width: Width = 320


async def upload(call: Call) -> UploadAnswer:
    """Keep a picture."""
    kind = call.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A form of another site could send other types without being asked.
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise Problem("unsupported-media", "The body is an image file, with a Content-Type of image/...")
    data = await _body(call)
    kept: Upload = await call.pool.run(lambda: call.service.uploads.add(data))
    expires = datetime.now(UTC) + timedelta(seconds=KEPT_S)
    return UploadAnswer(id=kept.identifier, width=kept.width, height=kept.height, expires=expires)


async def _body(call: Call) -> bytes:
    """The body, refused as soon as it is too large."""
    most, data = call.service.config.upload_bytes, bytearray()
    async for block in call.request.stream():
        data += block
        if len(data) > most:
            raise Problem("too-large", f"The picture has more than {most:,} bytes.")
    return bytes(data)


def thumbnail(call: Call, query: UploadThumbnailQuery) -> Response:
    """An upload as a thumbnail."""
    made = call.service.uploads.thumbnail(query.id, THUMBNAILS[query.width])
    return picture_response(made, call.request.headers, is_named=True)


def remove(call: Call, query: UploadQuery) -> None:
    """Forget a picture."""
    call.service.uploads.remove(query.id)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/uploads",
        handle=upload,
        summary="Upload a picture to search with.",
        body_media="image/*",
        answer=UploadAnswer,
        status=201,
        pool="pictures",
        is_async=True,
    ),
    Endpoint(
        method="GET",
        path="/uploads/{id}/thumbnail",
        handle=thumbnail,
        summary="An upload as a small picture.",
        query=UploadThumbnailQuery,
        media="image/webp",
        pool="pictures",
    ),
    Endpoint(
        method="DELETE", path="/uploads/{id}", handle=remove, summary="Forget an upload.", query=UploadQuery, status=204
    ),
)
