"""What E2B's code interpreter speaks to at port 49999: contexts, and code whose output comes as lines of JSON.

It runs code in its own process, with the standard library alone."""

import ast
import contextlib
import io
import itertools
import json
import os
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 49999
numbers = itertools.count(1)
contexts = {"default": {}}


def described(name):
    return {"id": name, "language": "python", "cwd": os.getcwd()}


class Output(io.TextIOBase):
    """A stream whose writes are sent as they are made."""

    def __init__(self, kind, send):
        self.kind, self.send = kind, send

    def write(self, text):
        self.send({"type": self.kind, "text": text, "timestamp": time.time_ns() // 1000})
        return len(text)


def execute(code, variables, send):
    """Runs code. If it ends with an expression, the value is its result."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(Output("stdout", send)), contextlib.redirect_stderr(Output("stderr", send)):
        exec(compile(tree, "<code>", "exec"), variables)
        value = eval(compile(ast.Expression(last.value), "<code>", "eval"), variables) if last else None
    if value is not None:
        send({"type": "result", "text": repr(value), "is_main_result": True})


class Handler(BaseHTTPRequestHandler):
    def body(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")

    def begin(self, status):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()

    def send(self, value):
        self.wfile.write(json.dumps(value).encode() + b"\n")

    def do_POST(self):
        request = self.body()
        if self.path == "/execute":
            return self.execute(request)
        name = f"context-{next(numbers)}"
        contexts[name] = {}
        self.begin(200)
        self.send(described(name))

    def do_GET(self):
        self.begin(200)
        self.send([described(name) for name in contexts])

    def do_DELETE(self):
        known = contexts.pop(self.path.rpartition("/")[2], None)
        self.begin(404 if known is None else 204)

    def execute(self, request):
        variables = contexts.get(request.get("context_id") or "default")
        if variables is None:
            return self.begin(404)
        self.begin(200)
        try:
            execute(request["code"], variables, self.send)
        except Exception as error:
            trace = traceback.format_exc()
            self.send({"type": "error", "name": type(error).__name__, "value": str(error), "traceback": trace})
        self.send({"type": "number_of_executions", "execution_count": next(numbers)})


server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
print("listening", flush=True)
server.serve_forever()
