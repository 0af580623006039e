"""mitmproxy's events. What goes wrong in one of them ends the connection: no error lets it pass."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mitmproxy import connection as connections
from mitmproxy import ctx, http
from mitmproxy.proxy import layer, server_hooks

from egress import credential, override, record, route
from egress import host as hosts
from egress import layer as choice
from egress.body import Body, is_packed
from egress.control import Control
from egress.mask import Stream
from egress.policy import Decision
from egress.registry import Connection, Registry, Vm

# The descriptor of the connection to the runner.
CONTROL = 3

logger = logging.getLogger(__name__)


@dataclass
class State:
    """What is known of a request."""

    decision: Decision
    host: str
    port: int
    path: str
    sent: int = 0
    received: int = 0
    names: list[str] = field(default_factory=list)
    stream: Stream | None = None
    # Kept if the VM's bodies are.
    asked: Body | None = None
    answered: Body | None = None
    is_told: bool = False


class Refusal(Exception):
    """A request that does not go on."""

    def __init__(self, decision: Decision, status: int = 403) -> None:
        super().__init__(decision.reason)
        self.decision = decision
        self.status = status


class Egress:
    def __init__(self) -> None:
        self.control = Control(CONTROL)
        self.registry = Registry(self.control.credential, self.handler)
        self.connections: dict[str, Connection] = {}
        self.serving: asyncio.Task[None] | None = None
        self.server: asyncio.Server | None = None

    # The life of the proxy.

    def load(self, _loader: Any) -> None:
        override.install(self.listening)

    def listening(self, server: asyncio.Server) -> None:
        self.server = server

    def running(self) -> None:
        # What a connection speaks is decided by us alone.
        ctx.master.addons.remove(ctx.master.addons.get("nextlayer"))
        loop = asyncio.get_running_loop()
        override.guard_names(loop)
        self.serving = loop.create_task(self.serve())

    async def serve(self) -> None:
        try:
            await self.control.serve(self.handle)
        except Exception as error:
            logger.error("the runner cannot be heard; error=%s", type(error).__name__)
        finally:
            # Whoever is connected is so no more, at once.
            os._exit(0)

    async def handle(self, message: dict[str, Any]) -> dict[str, Any]:
        match message["op"]:
            case "serve":
                self.require_filter()
                await self.server.start_serving()
            case "register":
                self.require_filter()
                return {"names": self.registry.register(message["vm"], message)}
            case "unregister":
                await self.registry.unregister(message["vm"])
            case other:
                raise ValueError(f"`{other}` is unknown")
        return {}

    def require_filter(self) -> None:
        """Nothing passes unless the kernel keeps us from the host's own addresses, too."""
        if not route.is_filtered(self.server.sockets[0].getsockname()[1]):
            raise ValueError("the kernel lets the proxy connect to the host's own addresses")

    def handler(self, client: str) -> Any:
        return ctx.master.addons.get("proxyserver").connections.get(client)

    # Connections.

    def client_connected(self, client: connections.Client) -> None:
        client.error = "unregistered"
        vm = self.registry.get(client.peername[0])
        if vm is None:
            return
        address = str(hosts.unmapped(hosts.ipaddress.ip_address(client.sockname[0])))
        known = Connection(vm, time.time(), address, client.sockname[1])
        self.connections[client.id] = known
        vm.opened(client.id, known)
        client.error = None

    def client_disconnected(self, client: connections.Client) -> None:
        known = self.connections.pop(client.id, None)
        if known is None:
            return
        if known.decision is not None:
            self.tell(known.vm, record.of_connection(known))
        known.vm.closed(client.id)

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        context = nextlayer.context
        if not context.layers or nextlayer.layer is not None:
            return
        try:
            known = self.connections[context.client.id]
            nextlayer.layer = choice.choose(context, nextlayer.data_client(), known)
        except Exception as error:
            logger.error("a connection is refused; error=%s", type(error).__name__)
            nextlayer.layer = choice.Refused(context)

    def tls_failed_client(self, data: Any) -> None:
        known = self.connections.get(data.context.client.id)
        if known is not None:
            decision = known.vm.policy.decide_host(known.host, known.port)
            reason = "TLS failed: does the client trust the system's certificates?"
            known.decision, known.error = (
                decision,
                decision.reason if not decision.allowed else reason,
            )

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        data.server.error = "refused"
        known = self.connections[data.client.id]
        override.client_of.set(known.vm)
        host, port = data.server.address[:2]
        refusal = None
        # A name is looked up, and looked at then.
        if hosts.is_address(host):
            refusal = known.vm.policy.refuses(host.partition("%")[0], host, port)
        data.server.error = refusal

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        known = self.connections.get(data.client.id)
        if known is not None:
            known.error = f"cannot connect: {data.server.error}"

    # Requests.

    def http_connect(self, flow: http.HTTPFlow) -> None:
        known = self.connections[flow.client_conn.id]
        known.decision = Decision(False, "CONNECT: there is no proxy to be asked", rule="connect")
        flow.response = http.Response.make(403, b"this is no proxy that could be asked\n")

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        try:
            await self.admit(flow)
        except Refusal as refusal:
            state = flow.metadata["egress"]
            state.decision = refusal.decision
            flow.response = refused(refusal)
        except Exception as error:
            logger.error("a request is refused; error=%s", type(error).__name__)
            flow.kill()

    async def admit(self, flow: http.HTTPFlow) -> None:
        known, request = self.connections[flow.client_conn.id], flow.request
        denied = Decision(False, "not decided")
        state = State(denied, known.host, known.port, request.path)
        flow.metadata["egress"] = state
        state.host = named(flow, known)
        policy = known.vm.policy
        headers = {name.lower() for name in request.headers}
        state.decision = policy.decide(
            request.method, request.scheme, state.host, state.port, request.path, headers
        )
        if not state.decision.allowed:
            raise Refusal(state.decision)
        # By its name, wherever the guest would have it.
        request.data.host, request.data.port = state.host, state.port
        await self.endow(flow, known, state)
        if known.vm.may_keep(state.host, state.port, state.path):
            keep_bodies(flow, known.vm, state)
        request.stream = functools.partial(count_sent, state)

    async def endow(self, flow: http.HTTPFlow, known: Connection, state: State) -> None:
        """Adds what the guest does not have."""
        request, wallet, api = flow.request, known.vm.wallet, state.decision.api
        mask = None
        if api is not None and api.has_credential:
            try:
                grant = await wallet.grant(api.index)
                credential.apply(grant, request, api.prefix)
            except credential.Refused as error:
                reason = f"{api.firewall}: {error}"
                raise Refusal(
                    Decision(False, reason, api, rule="credential"), error.status
                ) from None
            if grant.base:
                base = urlsplit(grant.base)
                request.data.host, request.data.scheme = base.hostname or "", base.scheme.encode()
                request.data.port = base.port or (443 if base.scheme == "https" else 80)
                request.host_header = base.netloc
            state.names, mask = grant.names, grant.mask
        elif request.scheme == "https" and wallet.is_for(state.host, state.port):
            state.names = [one.name for one in wallet.insert(request, state.host, state.port)]
            # Whether one is sent just now or was before: the server may have kept it.
            mask = known.vm.mask
        left = wallet.left(request)
        if left is not None:
            reason = f"the placeholder of {left.name} is not for {request.scheme}://{state.host}"
            raise Refusal(Decision(False, reason, api, rule="placeholder"))
        if mask is not None:
            state.stream = Stream(mask)
            # What is packed, or comes in pieces, could not be looked through.
            request.headers["accept-encoding"] = "identity"
            request.headers.pop("range", None)

    def request(self, flow: http.HTTPFlow) -> None:
        if (state := flow.metadata.get("egress")) is None or (
            flow.response is None and not callable(flow.request.stream)
        ):
            flow.kill()
        elif flow.response is None and flow.request.raw_content:
            state.sent = len(flow.request.raw_content)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        try:
            self.answer(flow, flow.metadata["egress"])
        except Exception as error:
            logger.error("an answer is dropped; error=%s", type(error).__name__)
            flow.kill()

    def answer(self, flow: http.HTTPFlow, state: State) -> None:
        response, vm = flow.response, self.connections[flow.client_conn.id].vm
        api = state.decision.api
        if response is None or not state.decision.allowed:
            return
        if response.status_code == 401 and api is not None and api.has_credential:
            vm.wallet.refused(api.index)
        if state.stream is not None:
            masked = state.stream.mask.bytes
            response.headers.fields = tuple((n, masked(v)) for n, v in response.headers.fields)
            response.reason = state.stream.mask.text(response.reason)
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                del response.headers["content-encoding"]
                response.status_code, response.headers["content-length"] = 502, "0"
                response.stream = lambda _: b""
                state.answered = None
                return
        if is_packed(response):
            state.answered = None
        response.stream = functools.partial(count_received, state)

    def response(self, flow: http.HTTPFlow) -> None:
        if (state := flow.metadata.get("egress")) is not None and state.stream is not None:
            flow.response.trailers = None
        if flow.websocket is None:
            self.end(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        known = self.connections.get(flow.client_conn.id)
        if known is not None and "egress" not in flow.metadata:
            known.decision = Decision(False, "no request that could be understood", rule="http")
        self.end(flow)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        state, messages = flow.metadata["egress"], flow.websocket.messages
        message = messages[-1]
        if message.from_client:
            state.sent += len(message.content)
        else:
            state.received += len(message.content)
            if state.stream is not None:
                message.content = state.stream.mask.bytes(message.content)
        # They are kept otherwise, as long as the connection lives.
        del messages[:-1]

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        self.end(flow)

    def end(self, flow: http.HTTPFlow) -> None:
        """Puts a request on record."""
        known = self.connections.get(flow.client_conn.id)
        state = flow.metadata.get("egress")
        if known is not None and state is not None and not state.is_told:
            state.is_told = True
            self.tell(known.vm, record.of_flow(flow, known, state))

    def tell(self, vm: Vm, entry: dict[str, Any]) -> None:
        self.control.tell_soon({"op": "record", "vm": vm.address, "entry": entry})


def named(flow: http.HTTPFlow, known: Connection) -> str:
    """The host that a request is for: all that name one must name the same."""
    request = flow.request
    said = [request.host_header, request.authority]
    if request.data.authority == b"" and request.path.startswith(("http://", "https://")):
        said.append(urlsplit(request.path).netloc)
    names = set()
    try:
        for text in filter(None, said):
            parts = urlsplit("//" + text)
            if parts.port not in (None, known.port) or "@" in text:
                raise hosts.BadHost(text)
            names.add(hosts.normalize(parts.hostname or ""))
        if flow.client_conn.tls_established:
            names.add(known.host)
    except ValueError:
        raise Refusal(Decision(False, "no host that could be understood", rule="host")) from None
    if len(names) > 1:
        reason = "the host of the request is not that of the connection: " + ", ".join(
            sorted(names)
        )
        raise Refusal(Decision(False, reason, rule="host mismatch"))
    return names.pop() if names else known.host


def refused(refusal: Refusal) -> http.Response:
    text = f"sandbox-runner: refused: {refusal.decision.reason}\n"
    rule = refusal.decision.rule or ""
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "x-refused-by": rule.encode("ascii", "replace").decode(),
    }
    return http.Response.make(refusal.status, text, headers)


def keep_bodies(flow: http.HTTPFlow, vm: Vm, state: State) -> None:
    """Has the beginnings of a request's bodies kept for the record."""
    masks = [vm.mask] if state.stream is None else [vm.mask, state.stream.mask]
    state.answered = Body(masks)
    if not is_packed(flow.request):
        state.asked = Body(masks)
    # What is packed could not be masked, and is not kept.
    flow.request.headers["accept-encoding"] = "identity"


def count_sent(state: State, data: bytes) -> bytes:
    state.sent += len(data)
    if state.asked is not None:
        state.asked.add(data)
    return data


def count_received(state: State, data: bytes) -> bytes:
    state.received += len(data)
    if state.answered is not None:
        state.answered.add(data)
    return data if state.stream is None else state.stream(data)
