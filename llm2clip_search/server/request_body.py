"""The body of a request, limited in bytes and in time; uvicorn limits neither."""

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive


@dataclass(frozen=True, kw_only=True)
class BodyLimit:
    """How large the body of a request may be, and how long it may take to arrive."""

    bytes: int
    seconds: float


JSON_BODY = BodyLimit(bytes=1 << 20, seconds=15)


class TooLargeError(Exception):
    """A body has more bytes than its route allows."""


class TooSlowError(Exception):
    """A body is not complete in the time that its route allows."""


class LimitedBody:
    """The receiving side of a request whose body is limited.

    Once a limit is reached, ``fault`` says which, and the application sees a client that has gone: it stops reading,
    whatever it would do with an exception.
    """

    def __init__(self, receive: Receive, limit: BodyLimit) -> None:
        self._receive, self._limit = receive, limit
        self._seen, self._is_complete = 0, False
        self._deadline = asyncio.get_running_loop().time() + limit.seconds
        self.fault: TooLargeError | TooSlowError | None = None

    async def __call__(self) -> Message:
        """The next message, as ASGI has it."""
        if self._is_complete:  # what follows is the news that the client has gone, however late
            return await self._receive()
        if self.fault is None:
            message = await self._next()
            if self.fault is None:
                return message
        return {"type": "http.disconnect"}

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.fault = TooSlowError()
            return {"type": "http.disconnect"}
        self._seen += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._seen > self._limit.bytes:
            self.fault = TooLargeError()
        return message
