"""The connection to the runner: an inherited socket, lines of JSON both ways.

| from   | `op`          | with                        | answer                              |
|--------|---------------|-----------------------------|-------------------------------------|
| us     | `ready`       |                             |                                     |
| runner | `serve`       | `id`                        | `done`: connections are taken       |
| runner | `register`    | `id`, `vm`, `policy`, …     | `done` with `names`, or an `error`  |
| runner | `unregister`  | `id`, `vm`                  | the same, when all is closed        |
| us     | `credential`  | `id`, `vm`, `api`, `force`  | `credential` with the `id`          |
| us     | `record`      | `vm`, `entry`               |                                     |

When the runner is gone, nobody may send anything any more, and we end.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

# The longest line: a policy may have thousands of rules.
LONGEST = 16 << 20
# How long a record may wait for others, in seconds.
SOON = 0.02
# What the runner is not told in time is not waited for, in seconds.
PATIENCE = 20

Handle = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Control:
    """Our end of it."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.writer: asyncio.StreamWriter | None = None
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.last = 0
        self.outbox: list[bytes] = []
        self.flushing: asyncio.TimerHandle | None = None
        self.orders: set[asyncio.Task[None]] = set()

    async def serve(self, handle: Handle) -> None:
        """Does what the runner says, until it is gone."""
        reader, self.writer = await asyncio.open_unix_connection(sock=self.socket, limit=LONGEST)
        self.tell({"op": "ready"})
        while line := await reader.readline():
            message = json.loads(line)
            if message["op"] == "credential":
                waiting = self.waiting.pop(message["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
                continue
            order = asyncio.create_task(self.obey(handle, message))
            self.orders.add(order)
            order.add_done_callback(self.orders.discard)

    async def obey(self, handle: Handle, message: dict[str, Any]) -> None:
        try:
            answer = await handle(message)
            self.tell({"op": "done", "id": message["id"], **answer})
        # Its text may hold what must not be told.
        except Exception as error:
            reason = str(error) if type(error) is ValueError else type(error).__name__
            self.tell({"op": "done", "id": message["id"], "error": reason})

    def tell(self, message: dict[str, Any]) -> None:
        """Says something now, after what was to be said soon."""
        self.tell_soon(message)
        self.flush()

    def tell_soon(self, message: dict[str, Any]) -> None:
        """Says something with what else is to be said: waking the runner takes longer."""
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
        # What a VM has sent need not be text.
        self.outbox.append(text.encode("utf-8", "replace") + b"\n")
        if self.flushing is None:
            self.flushing = asyncio.get_running_loop().call_later(SOON, self.flush)

    def flush(self) -> None:
        if self.flushing is not None:
            self.flushing.cancel()
            self.flushing = None
        lines, self.outbox = self.outbox, []
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(b"".join(lines))

    async def credential(self, vm: str, api: int, force: bool) -> dict[str, Any]:
        """Asks for the values of an API."""
        self.last += 1
        waiting = asyncio.get_running_loop().create_future()
        self.waiting[self.last] = waiting
        self.tell({"op": "credential", "id": self.last, "vm": vm, "api": api, "force": force})
        try:
            return await asyncio.wait_for(waiting, PATIENCE)
        except asyncio.TimeoutError:
            return {"status": 504, "reason": "no credential came in time"}
        finally:
            self.waiting.pop(self.last, None)
