"""``/images/{id}`` and ``/archive``: what is known of a row, what it looks like, and the files themselves."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from threading import Thread
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta, Struct
from starlette.responses import Response, StreamingResponse

from llm2clip_search.server.api.search import K, SearchAnswer, SearchRequest, answer
from llm2clip_search.server.endpoint import Call, Endpoint, read_json
from llm2clip_search.server.hits import as_text, found_of
from llm2clip_search.server.pictures.archive import zipped
from llm2clip_search.server.pictures.downloads import file_response, is_known, named
from llm2clip_search.server.pictures.originals import Original, original_of
from llm2clip_search.server.pictures.rendering import PREVIEW, THUMBNAILS, PictureSize, Rendered
from llm2clip_search.server.problems import Problem
from llm2clip_search.server.terms import TermValue
from llm2clip_search.server.values import HASH_DIGITS, Found, Id

MOST = 1_000
"""Originals of one archive."""
FOREVER = "private, max-age=31536000, immutable"
CHECKED = "private, no-cache"

Width = Literal[160, 320, 640, 1280]
Version = Annotated[str, Meta(max_length=32, description="The row's `hash`; with it, the picture is kept for ever.")]


class ImageQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A row."""

    id: Id


class PictureQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A row as a preview."""

    id: Id
    v: Version = ""


class ThumbnailQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A row as a thumbnail."""

    id: Id
    width: Width = 320
    """Pixels at most; the height is at most four times that."""
    v: Version = ""


class Details(Found, kw_only=True, frozen=True, omit_defaults=True):
    """One image or text, and where it is."""

    exists: bool | None = None
    """False if its file is gone; left out if it is not on this machine."""
    source: str
    """Path or URI of the source that it came from."""
    source_exists: bool
    """False if the source cannot be found either, such as a drive that is not mounted."""
    folder: str
    """Path or URI of the folder of its file."""


class SimilarQuery(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A row to search with."""

    id: Id
    k: K = 50
    where: str | None = None
    """SQL condition."""


class ArchiveRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Whose originals to send."""

    ids: Annotated[list[Id], Meta(min_length=1, max_length=MOST)]


def details(call: Call, query: ImageQuery) -> Details:
    """Describe one row."""
    from llm2clip_search.engine import Listed
    from llm2clip_search.engine.results import NOT_METADATA

    opened = call.opened
    original = original_of(query.id, opened)
    row = original.row
    listed = Listed(
        rank=0,
        id=row["id"],
        uri=original.uri,
        metadata={name: value for name, value in row.items() if name not in NOT_METADATA},
        index=str(original.snapshot.folder) if len(opened.searcher.parts) > 1 else None,
    )
    found = found_of(listed, opened, is_ranked=False)
    return Details(
        **msgspec.structs.asdict(found),
        exists=original.exists,
        source=as_text(original.source),
        source_exists=original.source_exists,
        folder=as_text(_folder(original)),
    )


def similar(call: Call, query: SimilarQuery) -> SearchAnswer:
    """Search for what is like one row."""
    return answer(call, SearchRequest(terms=[TermValue(like=query.id)], k=query.k, where=query.where), call.opened)


async def thumbnail(call: Call, query: ThumbnailQuery) -> Response:
    """A row as a thumbnail. One that is in memory is answered without a thread."""
    return await _picture(call, query.id, THUMBNAILS[query.width], query.v)


async def preview(call: Call, query: PictureQuery) -> Response:
    """A row as a preview."""
    return await _picture(call, query.id, PREVIEW, query.v)


async def _picture(call: Call, identifier: str, size: PictureSize, version: str) -> Response:
    opened, shown = call.opened, call.service.shown
    found = shown.held(identifier, size, opened)
    if found is None:
        found = await call.pool.run(lambda: shown.picture(identifier, size, opened))
    return picture_response(found, call.request.headers, is_named=version == found.tag[:HASH_DIGITS])


def picture_response(picture: Rendered, headers: Mapping[str, str], *, is_named: bool) -> Response:
    """A picture as an answer; ``is_named`` if its address changes with its content."""
    sent = {"ETag": f'"{picture.tag}"', "Cache-Control": FOREVER if is_named else CHECKED}
    if is_known(headers, picture.tag):
        return Response(status_code=304, headers=sent)
    return Response(picture.data, headers=sent, media_type=picture.media_type)


def file(call: Call, query: PictureQuery) -> Response:
    """The original."""
    _check_location(call)
    return file_response(call.request, original_of(query.id, call.opened).download())


def open_folder(call: Call, query: ImageQuery) -> None:
    """Show the folder of a row's file in the file manager of this machine."""
    if not call.service.config.can_open_folder:
        raise Problem("forbidden", "Folders are opened only if the server can be reached from its own machine alone.")
    original = original_of(query.id, call.opened)
    if original.is_remote:
        raise Problem("bad-request", f"Row {query.id} is not on this machine.", parameter="id")
    folder = _folder(original)
    if not Path(folder).is_dir():  # a program that has its name would be run by some openers
        raise Problem("gone", f"{as_text(folder)} is not there.")
    opener = {"darwin": "open", "win32": "explorer"}.get(sys.platform, "xdg-open")
    nothing: Any = subprocess.DEVNULL
    try:
        started = subprocess.Popen(
            [opener, folder], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
    except OSError as error:
        raise Problem("forbidden", f"This machine has no {opener} that opens folders.") from error
    Thread(target=started.wait, name="file manager", daemon=True).start()


async def archive(call: Call) -> Response:
    """Originals as a zip file. A form with ``ids`` separated by commas is taken too."""
    _check_location(call)
    body = await call.request.body()
    if call.request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        try:
            fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
        except ValueError as error:
            raise Problem("bad-request", f"The form cannot be read: {error}.") from error
        body = msgspec.json.encode({"ids": ",".join(fields.get("ids", [])).split(",")})
    asked, opened = read_json(ArchiveRequest, body), call.opened
    blocks = zipped(dict.fromkeys(asked.ids), lambda identifier: original_of(identifier, opened))
    headers = {"Content-Disposition": f"attachment; {named('originals.zip')}", "Cache-Control": "no-store"}
    return StreamingResponse(blocks, headers=headers, media_type="application/zip")


def _check_location(call: Call) -> None:
    """Originals hold where they were taken.

    Raises:
        Problem: ``forbidden``.
    """
    if call.service.config.hide_location:
        raise Problem("forbidden", "Originals say where they were taken, which this server does not show.")


def _folder(original: Original) -> str:
    return original.file.rpartition("/")[0] if original.is_remote else str(PurePath(original.file).parent)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/images/{id}",
        handle=details,
        summary="What is known of a row.",
        query=ImageQuery,
        answer=Details,
    ),
    Endpoint(
        method="GET",
        path="/images/{id}/similar",
        handle=similar,
        summary="Search for what is like a row.",
        query=SimilarQuery,
        answer=SearchAnswer,
        pool="search",
    ),
    Endpoint(
        method="GET",
        path="/images/{id}/thumbnail",
        handle=thumbnail,
        summary="A row as a small picture.",
        query=ThumbnailQuery,
        media="image/webp",
        pool="pictures",
        is_async=True,
    ),
    Endpoint(
        method="GET",
        path="/images/{id}/preview",
        handle=preview,
        summary="A row as a picture of at most 2,048 pixels, whatever its format.",
        query=PictureQuery,
        media="image/jpeg",
        pool="pictures",
        is_async=True,
    ),
    Endpoint(
        method="GET",
        path="/images/{id}/file",
        handle=file,
        summary="The original; one range of it can be asked for.",
        query=PictureQuery,
        media="*/*",
        pool="pictures",
    ),
    Endpoint(
        method="POST",
        path="/images/{id}/open-folder",
        handle=open_folder,
        summary="Show the file in the file manager of this machine.",
        query=ImageQuery,
        status=204,
    ),
    Endpoint(
        method="POST",
        path="/archive",
        handle=archive,
        summary='Originals as a zip file: `{"ids": [...]}`, or a form.',
        body_media="application/x-www-form-urlencoded",
        media="application/zip",
        is_async=True,
    ),
)
