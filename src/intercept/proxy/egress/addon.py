"""The handlers of mitmproxy's events. An exception in a handler closes the connection."""

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
from egress.body import Body, is_compressed
from egress.control import Control
from egress.mask import Stream
from egress.policy import Decision
from egress.registry import Connection, Registry, Vm

# The file descriptor of the connection to the runner.
CONTROL = 3

logger = logging.getLogger(__name__)


@dataclass
class RequestState:
    """The state of a request, from its decision to its log entry."""

    decision: Decision
    host: str
    port: int
    path: str
    sent: int = 0
    received: int = 0
    names: list[str] = field(default_factory=list)
    stream: Stream | None = None
    # Set if the VM's bodies are logged.
    request_body: Body | None = None
    response_body: Body | None = None
    is_logged: bool = False


class RequestRejected(Exception):
    """The request is rejected."""

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
        # Our `next_layer` alone chooses the protocol of a connection.
        ctx.master.addons.remove(ctx.master.addons.get("nextlayer"))
        loop = asyncio.get_running_loop()
        override.filter_addresses(loop)
        self.serving = loop.create_task(self.serve())

    async def serve(self) -> None:
        try:
            await self.control.serve(self.handle)
        except Exception as error:
            logger.error("cannot read from the runner; error=%s", type(error).__name__)
        finally:
            # Closes every connection at once.
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
                raise ValueError(f"unknown command `{other}`")
        return {}

    def require_filter(self) -> None:
        """Fails unless the kernel also keeps us from the host's own addresses."""
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
        connection = Connection(vm, time.time(), address, client.sockname[1])
        self.connections[client.id] = connection
        vm.opened(client.id, connection)
        client.error = None

    def client_disconnected(self, client: connections.Client) -> None:
        connection = self.connections.pop(client.id, None)
        if connection is None:
            return
        if connection.decision is not None:
            self.log(connection.vm, record.of_connection(connection))
        connection.vm.closed(client.id)

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        context = nextlayer.context
        if not context.layers or nextlayer.layer is not None:
            return
        try:
            connection = self.connections[context.client.id]
            nextlayer.layer = choice.choose(context, nextlayer.data_client(), connection)
        except Exception as error:
            logger.error("a connection is closed; error=%s", type(error).__name__)
            nextlayer.layer = choice.ClosedConnection(context)

    def tls_failed_client(self, data: Any) -> None:
        connection = self.connections.get(data.context.client.id)
        if connection is not None:
            decision = connection.vm.policy.decide_host(connection.host, connection.port)
            reason = "TLS failed: does the client trust the system's certificates?"
            connection.decision, connection.error = (
                decision,
                decision.reason if not decision.allowed else reason,
            )

    def server_connect(self, data: server_hooks.ServerConnectionHookData) -> None:
        data.server.error = "refused"
        connection = self.connections[data.client.id]
        override.current_vm.set(connection.vm)
        host, port = data.server.address[:2]
        refusal = None
        # The addresses of a name are checked when it is resolved.
        if hosts.is_address(host):
            refusal = connection.vm.policy.rejects(host.partition("%")[0], host, port)
        data.server.error = refusal

    def server_connect_error(self, data: server_hooks.ServerConnectionHookData) -> None:
        connection = self.connections.get(data.client.id)
        if connection is not None:
            connection.error = f"cannot connect: {data.server.error}"

    # Requests.

    def http_connect(self, flow: http.HTTPFlow) -> None:
        connection = self.connections[flow.client_conn.id]
        connection.decision = Decision(False, "CONNECT: not an explicit proxy", rule="connect")
        flow.response = http.Response.make(403, b"this is not an explicit proxy\n")

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        try:
            await self.authorize(flow)
        except RequestRejected as refusal:
            state = flow.metadata["egress"]
            state.decision = refusal.decision
            flow.response = rejection_response(refusal)
        except Exception as error:
            logger.error("a request is rejected; error=%s", type(error).__name__)
            flow.kill()

    async def authorize(self, flow: http.HTTPFlow) -> None:
        connection, request = self.connections[flow.client_conn.id], flow.request
        denied = Decision(False, "not decided")
        state = RequestState(denied, connection.host, connection.port, request.path)
        flow.metadata["egress"] = state
        state.host = requested_host(flow, connection)
        policy = connection.vm.policy
        headers = {name.lower() for name in request.headers}
        state.decision = policy.decide(
            request.method, request.scheme, state.host, state.port, request.path, headers
        )
        if not state.decision.allowed:
            raise RequestRejected(state.decision)
        # Connect to the name, not to the address that the guest has chosen.
        request.data.host, request.data.port = state.host, state.port
        await self.inject_credentials(flow, connection, state)
        if connection.vm.may_log_bodies(state.host, state.port, state.path):
            log_bodies(flow, connection.vm, state)
        request.stream = functools.partial(count_sent, state)

    async def inject_credentials(
        self, flow: http.HTTPFlow, connection: Connection, state: RequestState
    ) -> None:
        """Adds credentials and secrets that the guest does not have."""
        request, credentials, api = flow.request, connection.vm.credentials, state.decision.api
        mask = None
        if api is not None and api.has_credential:
            try:
                granted = await credentials.get(api.index)
                credential.apply(granted, request, api.prefix)
            except credential.CredentialError as error:
                reason = f"{api.firewall}: {error}"
                raise RequestRejected(
                    Decision(False, reason, api, rule="credential"), error.status
                ) from None
            if granted.base:
                base = urlsplit(granted.base)
                request.data.host, request.data.scheme = base.hostname or "", base.scheme.encode()
                request.data.port = base.port or (443 if base.scheme == "https" else 80)
                request.host_header = base.netloc
            state.names, mask = granted.names, granted.mask
        elif request.scheme == "https" and credentials.has_secret_for(state.host, state.port):
            state.names = [
                secret.name
                for secret in credentials.replace_placeholders(request, state.host, state.port)
            ]
            # Mask even if this request has none: the server may have kept one from before.
            mask = connection.vm.mask
        placeholder = credentials.remaining_placeholder(request)
        if placeholder is not None:
            reason = (
                f"the placeholder of {placeholder.name} is not for {request.scheme}://{state.host}"
            )
            raise RequestRejected(Decision(False, reason, api, rule="placeholder"))
        if mask is not None:
            state.stream = Stream(mask)
            # Compressed or partial responses cannot be searched.
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
            self.handle_response(flow, flow.metadata["egress"])
        except Exception as error:
            logger.error("a response is dropped; error=%s", type(error).__name__)
            flow.kill()

    def handle_response(self, flow: http.HTTPFlow, state: RequestState) -> None:
        response, vm = flow.response, self.connections[flow.client_conn.id].vm
        api = state.decision.api
        if response is None or not state.decision.allowed:
            return
        if response.status_code == 401 and api is not None and api.has_credential:
            vm.credentials.reject(api.index)
        if state.stream is not None:
            masked = state.stream.mask.bytes
            response.headers.fields = tuple((n, masked(v)) for n, v in response.headers.fields)
            response.reason = state.stream.mask.text(response.reason)
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                del response.headers["content-encoding"]
                response.status_code, response.headers["content-length"] = 502, "0"
                response.stream = lambda _: b""
                state.response_body = None
                return
        if is_compressed(response):
            state.response_body = None
        response.stream = functools.partial(count_received, state)

    def response(self, flow: http.HTTPFlow) -> None:
        if (state := flow.metadata.get("egress")) is not None and state.stream is not None:
            flow.response.trailers = None
        if flow.websocket is None:
            self.end(flow)

    def error(self, flow: http.HTTPFlow) -> None:
        connection = self.connections.get(flow.client_conn.id)
        if connection is not None and "egress" not in flow.metadata:
            connection.decision = Decision(False, "malformed request", rule="http")
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
        # mitmproxy would keep them as long as the connection lives.
        del messages[:-1]

    def websocket_end(self, flow: http.HTTPFlow) -> None:
        self.end(flow)

    def end(self, flow: http.HTTPFlow) -> None:
        """Logs a request, once."""
        connection = self.connections.get(flow.client_conn.id)
        state = flow.metadata.get("egress")
        if connection is not None and state is not None and not state.is_logged:
            state.is_logged = True
            self.log(connection.vm, record.of_flow(flow, connection, state))

    def log(self, vm: Vm, entry: dict[str, Any]) -> None:
        self.control.send_later({"op": "record", "vm": vm.address, "entry": entry})


def requested_host(flow: http.HTTPFlow, connection: Connection) -> str:
    """The host of a request. All places that name a host must name the same one."""
    request = flow.request
    hosts_named = [request.host_header, request.authority]
    if request.data.authority == b"" and request.path.startswith(("http://", "https://")):
        hosts_named.append(urlsplit(request.path).netloc)
    names = set()
    try:
        for text in filter(None, hosts_named):
            parts = urlsplit("//" + text)
            if parts.port not in (None, connection.port) or "@" in text:
                raise hosts.BadHost(text)
            names.add(hosts.normalize(parts.hostname or ""))
        if flow.client_conn.tls_established:
            names.add(connection.host)
    except ValueError:
        raise RequestRejected(Decision(False, "malformed host", rule="host")) from None
    if len(names) > 1:
        reason = "the host of the request is not that of the connection: " + ", ".join(
            sorted(names)
        )
        raise RequestRejected(Decision(False, reason, rule="host mismatch"))
    return names.pop() if names else connection.host


def rejection_response(refusal: RequestRejected) -> http.Response:
    text = f"sandbox-runner: refused: {refusal.decision.reason}\n"
    rule = refusal.decision.rule or ""
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "x-refused-by": rule.encode("ascii", "replace").decode(),
    }
    return http.Response.make(refusal.status, text, headers)


def log_bodies(flow: http.HTTPFlow, vm: Vm, state: RequestState) -> None:
    """Buffers the beginning of both bodies for the log."""
    masks = [vm.mask] if state.stream is None else [vm.mask, state.stream.mask]
    state.response_body = Body(masks)
    if not is_compressed(flow.request):
        state.request_body = Body(masks)
    # A compressed body cannot be masked, so it would not be logged.
    flow.request.headers["accept-encoding"] = "identity"


def count_sent(state: RequestState, data: bytes) -> bytes:
    state.sent += len(data)
    if state.request_body is not None:
        state.request_body.add(data)
    return data


def count_received(state: RequestState, data: bytes) -> bytes:
    state.received += len(data)
    if state.response_body is not None:
        state.response_body.add(data)
    return data if state.stream is None else state.stream(data)
