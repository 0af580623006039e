"""The protocol to the runner: lines of JSON on an inherited socket.

| from   | `op`          | with                        | answer                              |
|--------|---------------|-----------------------------|-------------------------------------|
| us     | `ready`       |                             |                                     |
| runner | `serve`       | `id`                        | `done`: connections are accepted    |
| runner | `register`    | `id`, `vm`, `policy`, …     | `done` with `names`, or an `error`  |
| runner | `unregister`  | `id`, `vm`                  | `done`, when all are closed         |
| us     | `credential`  | `id`, `vm`, `api`, `force`  | `credential` with the `id`          |
| us     | `record`      | `vm`, `entry`               |                                     |

When the runner closes the socket, the proxy exits.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

# The limit of a line: a policy may have thousands of rules.
MAX_LINE = 16 << 20
# How long log entries may wait to be sent together, in seconds.
BATCH_DELAY = 0.02
# The time-out of a request for a credential, in seconds.
TIMEOUT = 20

Handle = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Control:
    """The connection."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.writer: asyncio.StreamWriter | None = None
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.last = 0
        self.outbox: list[bytes] = []
        self.flushing: asyncio.TimerHandle | None = None
        self.commands: set[asyncio.Task[None]] = set()

    async def serve(self, handle: Handle) -> None:
        """Handles commands until the runner closes the socket."""
        reader, self.writer = await asyncio.open_unix_connection(sock=self.socket, limit=MAX_LINE)
        self.send({"op": "ready"})
        while line := await reader.readline():
            message = json.loads(line)
            if message["op"] == "credential":
                waiting = self.waiting.pop(message["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
                continue
            command = asyncio.create_task(self.handle_command(handle, message))
            self.commands.add(command)
            command.add_done_callback(self.commands.discard)

    async def handle_command(self, handle: Handle, message: dict[str, Any]) -> None:
        try:
            answer = await handle(message)
            self.send({"op": "done", "id": message["id"], **answer})
        # Other texts may contain secrets.
        except Exception as error:
            reason = str(error) if type(error) is ValueError else type(error).__name__
            self.send({"op": "done", "id": message["id"], "error": reason})

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message at once, after those that wait."""
        self.send_later(message)
        self.flush()

    def send_later(self, message: dict[str, Any]) -> None:
        """Sends a message with others, to wake the runner less often."""
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
        # Bytes from a VM may not be valid text.
        self.outbox.append(text.encode("utf-8", "replace") + b"\n")
        if self.flushing is None:
            self.flushing = asyncio.get_running_loop().call_later(BATCH_DELAY, self.flush)

    def flush(self) -> None:
        if self.flushing is not None:
            self.flushing.cancel()
            self.flushing = None
        lines, self.outbox = self.outbox, []
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(b"".join(lines))

    async def credential(self, vm: str, api: int, force: bool) -> dict[str, Any]:
        """Requests the credential of an API."""
        self.last += 1
        waiting = asyncio.get_running_loop().create_future()
        self.waiting[self.last] = waiting
        self.send({"op": "credential", "id": self.last, "vm": vm, "api": api, "force": force})
        try:
            return await asyncio.wait_for(waiting, TIMEOUT)
        except asyncio.TimeoutError:
            return {"status": 504, "reason": "no credential came in time"}
        finally:
            self.waiting.pop(self.last, None)
