"""The body of a request, limited in bytes and in time; uvicorn limits neither."""

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive

from llm2clip_search.server.refusals import Refusal, too_large, too_slow


@dataclass(frozen=True, kw_only=True)
class BodyLimit:
    """How large the body of a request may be, and how long it may take to arrive."""

    bytes: int
    seconds: float


class LimitedBody:
    """The receiving side of a request whose body is limited.

    Once a limit is reached, ``refusal`` says so, and the application sees a client that has gone: it stops reading,
    whatever it would do with an exception.
    """

    def __init__(self, receive: Receive, limit: BodyLimit) -> None:
        self._receive, self._limit = receive, limit
        self._seen, self._is_complete = 0, False
        self._deadline = asyncio.get_running_loop().time() + limit.seconds
        self.refusal: Refusal | None = None

    async def __call__(self) -> Message:
        """The next message, as ASGI has it."""
        if self.refusal is None and self._is_complete:
            return await self._receive()  # the news that the client has gone, however late
        message: Message = {"type": "http.disconnect"}
        if self.refusal is None:
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._receive()
            except TimeoutError:
                self.refusal = too_slow(self._limit.seconds)
        self._seen += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._seen > self._limit.bytes:
            self.refusal = too_large(self._limit.bytes)
        return message if self.refusal is None else {"type": "http.disconnect"}
