"""Files as answers: in blocks, whole or one range of them, inline only if they are raster images."""

import re
import unicodedata
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from llm2clip_search.server.pictures.formats import HEAD, raster_type
from llm2clip_search.server.pictures.originals import Download
from llm2clip_search.server.problems import Problem

BLOCK = 256 << 10
"""Bytes that are read at a time."""
_RANGE = re.compile(r"bytes=\s*(?P<first>\d{0,18})-(?P<last>\d{0,18})\s*", re.IGNORECASE)
_SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
"""If a browser opens the file as a page of its own, nothing in it runs."""


def file_response(request: Request, download: Download) -> Response:
    """An open file as the answer to a GET or HEAD, or the problem ``range``; the file is closed in the end."""
    try:
        kind = raster_type(download.file.read(HEAD))
        disposition = "inline" if kind else "attachment"
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, no-cache",
            "Content-Disposition": f"{disposition}; {named(download.name)}",
        } | _SAFE
        if download.tag:
            headers["ETag"] = f'"{download.tag}"'
        if is_known(request.headers, download.tag):
            download.file.close()
            return Response(status_code=304, headers=headers)
        part = _range(request.headers, download)
        first, last = part or (0, download.size - 1)
        if first > last and part is not None:
            download.file.close()
            problem = Problem("range", f"The file has {download.size:,} bytes; the range begins behind them.").response
            problem.headers["Content-Range"] = f"bytes */{download.size}"
            return problem
        headers["Content-Length"] = str(last - first + 1)
        if part is not None:
            headers["Content-Range"] = f"bytes {first}-{last}/{download.size}"
    except BaseException:
        download.file.close()
        raise
    return StreamingResponse(
        _blocks(download, first, 0 if request.method == "HEAD" else last - first + 1),
        status_code=200 if part is None else 206,
        headers=headers,
        media_type=kind or "application/octet-stream",
    )


def is_known(headers: Mapping[str, str], tag: str) -> bool:
    """True if the client has the content of that tag already."""
    asked = headers.get("if-none-match")
    if asked is None or not tag:
        return False
    return asked.strip() == "*" or any(each.strip().removeprefix("W/") == f'"{tag}"' for each in asked.split(","))


def named(name: str) -> str:
    """The parameter of Content-Disposition for a file name, which may hold anything."""
    shown = "".join("_" if unicodedata.category(each)[0] == "C" or each in '/\\"' else each for each in name) or "file"
    plain = unicodedata.normalize("NFKD", shown).encode("ascii", "ignore").decode().replace("%", "_") or "file"
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(shown, safe='')}"


def _range(headers: Mapping[str, str], download: Download) -> tuple[int, int] | None:
    """First and last byte that are asked for, the first behind the last if the file is shorter; None for all of it.

    Several ranges are answered by the whole file: a thousand of them must not cost more than that.
    """
    asked, condition = headers.get("range"), headers.get("if-range")
    match = None if asked is None else _RANGE.fullmatch(asked)
    if match is None or not (match["first"] or match["last"]):
        return None
    if condition is not None and (not download.tag or condition.strip() != f'"{download.tag}"'):
        return None
    if match["first"]:
        first, last = int(match["first"]), min(int(match["last"] or download.size), download.size - 1)
        if match["last"] and int(match["last"]) < first:
            return None  # no range at all
    else:
        first, last = max(0, download.size - int(match["last"])), download.size - 1
    return first, last


async def _blocks(download: Download, first: int, count: int) -> AsyncIterator[bytes]:
    with download.file:
        await to_thread.run_sync(download.file.seek, first)
        while count > 0:
            block = await to_thread.run_sync(download.file.read, min(BLOCK, count))
            if not block:
                return  # it was cut meanwhile; the length that was stated tells the client
            count -= len(block)
            yield block
