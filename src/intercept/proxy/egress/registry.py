"""The registered VMs by address, and their open connections."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from egress import host as hosts
from egress.body import is_presigned
from egress.credential import CredentialStore, Secret
from egress.mask import Mask
from egress.policy import Decision, Policy

# How long closed connections may take to end, in seconds.
CLOSE_TIMEOUT = 5

# Gets mitmproxy's handler of a client connection, which has all its transports.
Handlers = Callable[[str], Any]
Ask = Callable[[str, int, bool], Awaitable[dict[str, Any]]]


@dataclass(eq=False)
class Vm:
    """A registered VM."""

    address: str
    policy: Policy
    credentials: CredentialStore
    # Masks secrets in the log.
    mask: Mask
    logs_bodies: bool
    # Hosts whose bodies are never logged.
    private: tuple[hosts.Pattern, ...] = ()
    connections: dict[str, Connection] = field(default_factory=dict)
    # Set when the last connection has ended.
    is_idle: asyncio.Event = field(default_factory=asyncio.Event)

    def may_log_bodies(self, host: str, port: int, path: str) -> bool:
        """Whether the bodies of a request may be logged. Those of the platform contain presigned
        URLs, and uploads to such a URL belong to the platform as well."""
        is_private = any(pattern.matches(host, port) for pattern in self.private)
        return self.logs_bodies and not is_private and not is_presigned(path)

    def opened(self, client: str, connection: Connection) -> None:
        self.connections[client] = connection
        self.is_idle.clear()

    def closed(self, client: str) -> None:
        self.connections.pop(client, None)
        if not self.connections:
            self.is_idle.set()


@dataclass(eq=False)
class Connection:
    """A connection of a VM."""

    vm: Vm
    began: float
    # The destination before the redirection.
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
        """Sets the host that the client names."""
        self.host = host or self.address


class Registry:
    """All registered VMs. Connections from other sources are closed."""

    def __init__(self, ask: Ask, handlers: Handlers) -> None:
        self.vms: dict[str, Vm] = {}
        self.ask = ask
        self.handlers = handlers

    def register(self, address: str, value: dict[str, Any]) -> dict[str, Any]:
        """Registers a VM, in place of an earlier one with its address; returns which names it may
        resolve."""
        self.close(address)
        secrets = [Secret.parse(secret) for secret in value.get("secrets") or ()]
        policy = Policy.parse(value.get("policy") or {})
        policy.secret_hosts = (
            *policy.secret_hosts,
            *(pattern for one in secrets for pattern in one.patterns),
        )

        async def ask(api: int, force: bool) -> dict[str, Any]:
            return await self.ask(address, api, force)

        hidden = [*(secret.value for secret in secrets), *(value.get("hidden") or ())]
        logs_bodies = bool(value.get("bodies"))
        private = tuple(map(hosts.Pattern.parse, value.get("private") or ()))
        vm = Vm(address, policy, CredentialStore(secrets, ask), Mask(hidden), logs_bodies, private)
        self.vms[address] = vm
        return policy.resolvable_names()

    async def unregister(self, address: str) -> None:
        """Closes the connections of a VM, and waits until they are logged."""
        vm = self.close(address)
        if vm is not None and vm.connections:
            await asyncio.wait_for(vm.is_idle.wait(), CLOSE_TIMEOUT)

    def close(self, address: str) -> Vm | None:
        """Removes a VM and closes its connections."""
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
