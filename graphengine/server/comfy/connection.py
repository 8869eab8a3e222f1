"""A connection of ComfyUI's WebSocket, with the messages that wait until its client reads them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from aiohttp import web

from graphengine.server.tokens import Caller

MOST_FRAMES, MOST_BYTES = 2000, 8 << 20
"""What may wait for a client that reads slowly; one for which more waits is let go."""
FEW_FRAMES = 20
"""A client for which more waits is sent no preview."""
WRITE_SECONDS, BEAT_SECONDS, CLOSE_SECONDS = 30.0, 30.0, 1.0
LARGEST_MESSAGE = 1 << 16


class Socket:
    """One connection, with what is still to be sent. Used on the loop's thread only.

    Attributes:
        previews: Whether its client understands previews with facts about them.
        welcomed: Whether its client was told its name, which is the first message.
    """

    def __init__(self, caller: Caller, request: web.Request) -> None:
        self.caller, self.request = caller, request
        self.answer = web.WebSocketResponse(
            heartbeat=BEAT_SECONDS, timeout=CLOSE_SECONDS, max_msg_size=LARGEST_MESSAGE, compress=False
        )
        self.previews = self.welcomed = False
        self._frames: deque[str | bytes] = deque()
        self._size = 0
        self._wake = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether much waits to be sent."""
        return len(self._frames) > FEW_FRAMES

    def send(self, type: str, data: Any) -> None:
        """Send a message soon."""
        self.put(json.dumps({"type": type, "data": data}, default=str))

    def put(self, frame: str | bytes) -> None:
        """Send a frame soon; lets the client go if too much waits for it."""
        self._frames.append(frame)
        self._size += len(frame)
        if len(self._frames) > MOST_FRAMES or self._size > MOST_BYTES:
            self.drop()
        self._wake.set()

    def drop(self) -> None:
        """End the connection at once."""
        self._frames.clear()
        self._size = 0
        if self.request.transport is not None:
            self.request.transport.abort()

    async def write(self) -> None:
        """Send what waits, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._frames:
                frame = self._frames.popleft()
                self._size -= len(frame)
                try:
                    async with asyncio.timeout(WRITE_SECONDS):
                        if isinstance(frame, str):
                            await self.answer.send_str(frame)
                        else:
                            await self.answer.send_bytes(frame)
                except TimeoutError:
                    self.drop()
                    return
                except (ConnectionError, RuntimeError):  # it has gone
                    return
