"""The VMs that may send anything, by their addresses, and their open connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from egress import host as hosts
from egress.body import is_presigned
from egress.credential import Secret, Wallet
from egress.mask import Mask
from egress.policy import Decision, Policy

# How long closed connections may take to end, in seconds.
CLOSING = 5

# A handler of mitmproxy's, with the transports of a connection and those to its servers.
Handlers = Callable[[str], Any]
Ask = Callable[[str, int, bool], Awaitable[dict[str, Any]]]


@dataclass(eq=False)
class Vm:
    """One that is registered."""

    address: str
    policy: Policy
    wallet: Wallet
    # What must not be on record.
    mask: Mask
    keeps_bodies: bool
    # Hosts whose bodies are not kept.
    private: tuple[hosts.Pattern, ...] = ()
    connections: dict[str, Connection] = field(default_factory=dict)
    # Set when the last connection has ended.
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)

    def may_keep(self, host: str, port: int, path: str) -> bool:
        """Whether the bodies of a request may be on record. Those of the platform hold presigned
        URLs; and what is sent to one of these is the platform's, too."""
        is_private = any(pattern.fits(host, port) for pattern in self.private)
        return self.keeps_bodies and not is_private and not is_presigned(path)

    def opened(self, client: str, connection: Connection) -> None:
        self.connections[client] = connection
        self.is_idle.clear()

    def closed(self, client: str) -> None:
        self.connections.pop(client, None)
        if not self.connections:
            self.is_idle.set()


@dataclass(eq=False)
class Connection:
    """One of a VM's."""

    vm: Vm
    began: float
    # Where the VM meant to connect to.
    address: str
    port: int
    host: str = ""
    decision: Decision | None = None
    sent: int = 0
    received: int = 0
    error: str | None = None

    def __post_init__(self) -> None:
        self.host = self.address

    def name(self, host: str | None) -> None:
        """The client has said which host it means."""
        self.host = host or self.address


class Registry:
    """All VMs: a source that is not here gets nothing."""

    def __init__(self, ask: Ask, handlers: Handlers) -> None:
        self.vms: dict[str, Vm] = {}
        self.ask = ask
        self.handlers = handlers

    def register(self, address: str, value: dict[str, Any]) -> dict[str, Any]:
        """Lets a VM in, instead of what was known of its address; returns which names it may
        ask for."""
        self.close(address)
        secrets = [Secret.parse(secret) for secret in value.get("secrets") or ()]
        policy = Policy.parse(value.get("policy") or {})
        policy.seen = (*policy.seen, *(pattern for one in secrets for pattern in one.patterns))

        async def ask(api: int, force: bool) -> dict[str, Any]:
            return await self.ask(address, api, force)

        hidden = [*(secret.value for secret in secrets), *(value.get("hidden") or ())]
        keeps_bodies = bool(value.get("bodies"))
        private = tuple(map(hosts.Pattern.parse, value.get("private") or ()))
        vm = Vm(address, policy, Wallet(secrets, ask), Mask(hidden), keeps_bodies, private)
        self.vms[address] = vm
        return policy.names()

    async def unregister(self, address: str) -> None:
        """Closes all that a VM has open, and waits until it is on record."""
        vm = self.close(address)
        if vm is not None and vm.connections:
            await asyncio.wait_for(vm.is_idle.wait(), CLOSING)

    def close(self, address: str) -> Vm | None:
        """Nothing of a VM passes any more."""
        vm = self.vms.pop(address, None)
        for client in list(vm.connections) if vm else ():
            handler = self.handlers(client)
            for io in list(handler.transports.values()) if handler else ():
                if io.writer is not None:
                    io.writer.transport.abort()
                if io.handler is not None:
                    io.handler.cancel("unregistered")
        return vm

    def get(self, address: str) -> Vm | None:
        return self.vms.get(address)
