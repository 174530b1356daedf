"""Connections with deadlines: uvicorn itself waits for ever for a request that does not end."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""From the first byte of a request, or the start of a connection, to the end of the headers."""
BODY_SECONDS = 180.0
"""From the headers to the end of the body, whatever its route allows and whether anybody reads it."""
STALL_SECONDS = 120.0
"""For a client to take something of what is sent to it."""


class PatientConnection(H11Protocol):
    """One connection of HTTP/1.1, closed when the client does not go on.

    Without it, a few hundred clients that send a byte now and then keep all others out.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting_for: Any = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def _watch(self) -> None:
        """Set the deadline of what is awaited now, unless it is already running."""
        state = self.conn.their_state
        if state is self._waiting_for:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._waiting_for, self._deadline = state, None
        seconds = {h11.IDLE: HEADER_SECONDS, h11.SEND_BODY: BODY_SECONDS}.get(state)
        if seconds is not None:
            self._deadline = self.loop.call_later(seconds, self.transport.abort)
