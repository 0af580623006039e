"""The log entry of a request or a connection, without secrets."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from egress import websocket
from egress.policy import Decision
from egress.registry import Connection

# Longer texts are truncated.
MAX_URL = 2048
MAX_ERROR = 512


def of_connection(connection: Connection) -> dict[str, Any]:
    """The entry of a connection that was not decrypted."""
    decision = connection.decision or Decision(False, "closed before a decision")
    entry = head("tcp", connection.began, decision, connection.host, connection.port)
    entry["latency_ms"] = round((time.time() - connection.began) * 1000)
    entry["request_size"], entry["response_size"] = connection.sent, connection.received
    if connection.error:
        entry["error"] = connection.error[:MAX_ERROR]
    return entry


def of_flow(flow: Any, connection: Connection, state: Any) -> dict[str, Any]:
    """The entry of a request."""
    request, response = flow.request, flow.response
    host = state.host or connection.host
    entry = head("http", request.timestamp_start, state.decision, host, state.port)
    entry["method"] = request.method[:32]
    # The query may contain secrets and is omitted.
    path = connection.vm.mask.text(urlsplit(state.path).path)
    default = {"http": 80, "https": 443}.get(request.scheme)
    port = "" if state.port == default else f":{state.port}"
    entry["url"] = f"{request.scheme}://{host}{port}{path}"[:MAX_URL]
    if response is not None:
        entry["status"] = response.status_code
        begun = response.timestamp_start or time.time()
        entry["latency_ms"] = max(0, round((begun - request.timestamp_start) * 1000))
    entry["request_size"], entry["response_size"] = state.sent, state.received
    if state.names:
        entry["auth_resolved_secrets"] = state.names
    if flow.error and "error" not in entry:
        entry["error"] = connection.vm.mask.text(str(flow.error.msg))[:MAX_ERROR]
    if flow.websocket and flow.websocket.close_code == websocket.TOO_LONG:
        entry["error"] = "closed: a message of the WebSocket is too long"
    for name, body in (
        ("request_body", state.request_body),
        ("response_body", state.response_body),
    ):
        if body is not None:
            entry |= body.log_fields(name)
    return entry


def head(kind: str, began: float, decision: Decision, host: str, port: int) -> dict[str, Any]:
    began_at = datetime.fromtimestamp(began, timezone.utc)
    entry: dict[str, Any] = {
        "timestamp": began_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "type": kind,
        "action": "ALLOW" if decision.allowed else "DENY",
        "host": host,
        "port": port,
    }
    if decision.api:
        entry["firewall_name"] = decision.api.firewall
        entry["firewall_base"] = decision.api.base
    if decision.permission:
        entry["firewall_permission"] = decision.permission
    if decision.rule:
        entry["firewall_rule_match"] = decision.rule
    if not decision.allowed:
        entry["error"] = decision.reason[:MAX_ERROR]
    return entry
