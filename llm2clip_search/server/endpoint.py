"""A route as one value: what it takes, what it gives, and what it runs in. OpenAPI is made from the same values."""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import msgspec
from anyio import CapacityLimiter, to_thread
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llm2clip_search.server.opened import Opened
from llm2clip_search.server.problems import BusyError, Problem, problem_of
from llm2clip_search.server.service import Service

_log = logging.getLogger(__name__)

PREFIX = "/api/v1"


class Pool:
    """Threads for one kind of work, and a bound on the requests that wait for one."""

    def __init__(self, name: str, *, threads: int, queue: int) -> None:
        self._name, self._threads, self._queue = name, threads, queue
        self._running = 0
        self._limiter: CapacityLimiter | None = None

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a function in a thread of the pool; in the event loop's thread only.

        Raises:
            BusyError: too many requests wait already.
        """
        if self._limiter is None:  # it belongs to the event loop
            self._limiter = CapacityLimiter(self._threads)
        if self._running >= self._threads + self._queue:
            raise BusyError(f"{self._queue} requests wait for {self._name} already.")
        self._running += 1
        try:
            return await to_thread.run_sync(function, limiter=self._limiter)
        finally:
            self._running -= 1


class Pools:
    """The pools of one server."""

    def __init__(self, *, queue: int, cores: int) -> None:
        self.search = Pool("a search", threads=16, queue=queue)
        """Threads mostly wait for a tower."""
        self.pictures = Pool("a picture", threads=cores, queue=1024)
        """A page asks for a hundred at once."""
        self.quick = Pool("a small question", threads=8, queue=256)


PoolName = Literal["search", "pictures", "quick"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, as a handler sees it."""

    service: Service
    request: Request
    pool: Pool
    """Where a handler that is a coroutine function has work done that takes a thread."""

    @property
    def opened(self) -> Opened:
        """The indices as they are now; a handler takes them once. Errors as `Service.opened`."""
        return self.service.opened


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One method of one path.

    ``handle`` gets the call, then the query if there is a type for it, then the body if there is one. It returns a
    value of type ``answer``, or a response. It runs in a thread of its pool, or in the event loop if it is a coroutine
    function.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    """Below `PREFIX`; parameters in braces are fields of ``query``."""
    handle: Callable[..., Any]
    summary: str
    """One line for the API's description."""
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    answer: Any = None
    """Type of the JSON that is returned; None if the answer is no JSON."""
    media: str = "application/json"
    """Media type of the answer."""
    other_media: tuple[str, ...] = ()
    """Further media types that a request may ask for."""
    body_media: str = "application/json"
    """Media type of the body; other bodies than JSON are read by the handler."""
    status: int = 200
    pool: PoolName = "quick"
    is_async: bool = False
    prefix: str = PREFIX

    def route(self, service: Service, pools: Pools) -> Route:
        """The route that Starlette serves."""
        pool: Pool = getattr(pools, self.pool)

        async def serve(request: Request) -> Response:
            try:
                return await self._serve(Call(service=service, request=request, pool=pool))
            except Exception as error:
                problem = problem_of(error)
                if problem.document.status == 500:
                    _log.exception("%s %s failed.", self.method, self.path)
                return problem.response

        return Route(self.prefix + self.path, serve, methods=[self.method])

    async def _serve(self, call: Call) -> Response:
        given: list[Any] = [call]
        if self.query is not None:
            given.append(read_query(self.query, call.request.query_params, call.request.path_params))
        if self.body is not None:
            given.append(read_json(self.body, await call.request.body()))
        if self.is_async:
            made: Awaitable[Any] = self.handle(*given)
            answer = await made
        else:
            answer = await call.pool.run(lambda: self.handle(*given))
        if isinstance(answer, Response):
            return answer
        if self.answer is None:
            return Response(status_code=204)
        return Response(msgspec.json.encode(answer), status_code=self.status, media_type=self.media)


def read_query(kind: type[msgspec.Struct], query: QueryParams, path: Mapping[str, str]) -> Any:
    """The parameters of a URL as a typed value.

    Raises:
        Problem: ``bad-request``, with the parameter's name.
    """
    lists = {field.encode_name for field in msgspec.structs.fields(kind) if _is_list(field.type)}
    given: dict[str, Any] = dict(path)
    for name in query:
        values = query.getlist(name)
        if name in lists:
            given[name] = values
        elif len(values) > 1 or name in path:
            raise Problem("bad-request", f"{name} is given more than once.", parameter=name)
        else:
            given[name] = values[0]
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise wrong_value(error) from error


def read_json(kind: type[msgspec.Struct], body: bytes) -> Any:
    """A body in JSON as a typed value.

    Raises:
        Problem: ``bad-request``, with the field's name.
    """
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise wrong_value(error) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Problem("bad-request", f"The body is not JSON: {error}.") from error


def _is_list(kind: Any) -> bool:
    """True for a list, and for a list or None."""
    return get_origin(kind) is list or any(get_origin(each) is list for each in get_args(kind))


_PLACE = re.compile(r" - at `\$(?P<place>[^`]*)`")
_NAMED = re.compile(r"field `(?P<name>[^`]+)`")


def wrong_value(error: msgspec.ValidationError) -> Problem:
    """What msgspec says of a wrong value, with the place as the parameter."""
    text = str(error)
    place = match["place"].lstrip(".") if (match := _PLACE.search(text)) else ""
    message = _PLACE.sub("", text)
    if (named := _NAMED.search(message)) and not place:
        place = named["name"]
    name = place or "The request"
    return Problem("bad-request", f"{name}: {message}.", parameter=place)
