"""The server of sandboxes for agents, by the unchanged MCP client of PyPI: over standard input and output, and over
HTTP. tests/vm/mcp.rs sets MCP_COMMAND (JSON: the command and its environment), MCP_URL and MCP_KEY."""

import base64
import json
import os
import time
import urllib.request

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError


def stdio():
    command = json.loads(os.environ["MCP_COMMAND"])
    return StdioServerParameters(command=command["argv"][0], args=command["argv"][1:], env=command["env"])


def http():
    headers = {"Authorization": f"Bearer {os.environ['MCP_KEY']}"}
    return streamable_http_client(os.environ["MCP_URL"], http_client=create_mcp_http_client(headers=headers))


TRANSPORTS = pytest.mark.parametrize("connect", [stdio, http])


def text(result):
    """The text of a result that is no error."""
    assert not result.is_error, result
    return result.content[0].text


async def fetch(published):
    """What the published server answers; it may still be starting."""
    request = urllib.request.Request(published["url"], headers=published["headers"])
    for _ in range(100):
        try:
            with await anyio.to_thread.run_sync(urllib.request.urlopen, request) as response:
                return response.read().decode()
        except OSError:
            await anyio.sleep(0.1)
    raise AssertionError("the server did not start")


async def use(client):
    """Everything that an agent does, in one sandbox."""
    assert client.protocol_version == "2025-11-25"
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {"run_command", "read_file", "publish_port"} <= tools.keys()
    assert tools["read_file"].annotations.read_only_hint

    # A command, in a sandbox that comes by itself.
    result = await client.call_tool("run_command", {"command": "echo $GREETING; id -un; pwd; exit 3", "env": {"GREETING": "hi"}})
    assert text(result) == "hi\nuser\n/home/user\n[exit code 3]"
    assert result.meta["exit_code"] == 3
    result = await client.call_tool("run_command", {"command": "tr a-z A-Z", "stdin": "é abc\n" * 20_000, "timeout": 60})
    assert text(result).startswith("é ABC\né ABC\n")

    # Output that is too much is in a file.
    result = await client.call_tool("run_command", {"command": "seq 100000"})
    log = next(word for word in text(result).split() if word.startswith("/tmp/command-"))
    assert text(result).startswith("1\n2\n") and text(result).endswith("99999\n100000\n[exit code 0]")
    page = text(await client.call_tool("read_file", {"path": log, "offset": 50_000, "limit": 2}))
    assert page.startswith("50000\n50001\n[lines 50000 to 50001 of ")
    compare = {"command": f"seq 100000 | cmp - {log} && echo same"}
    assert text(await client.call_tool("run_command", compare)) == "same\n[exit code 0]"

    # What is left running does not keep the call, and a time-out kills.
    result = await client.call_tool("run_command", {"command": "sleep 1000 & echo left"})
    assert text(result) == "left\n[exit code 0]"
    # On a busy host the shell itself may need longer than a short time-out.
    for seconds in (1, 4, 16, 64):
        call = {"command": "echo begun; sleep 1000", "timeout": seconds}
        result = await client.call_tool("run_command", call)
        assert result.is_error and f"\n[killed after {seconds} s" in result.content[0].text
        if result.content[0].text.startswith("begun\n"):
            break
    else:
        pytest.fail("the output before the time-out is missing")

    # Files.
    assert "wrote" in text(await client.call_tool("write_file", {"path": "site/index.html", "content": "<p>one é</p>\n"}))
    edit = {"path": "site/index.html", "old_text": "one", "new_text": "two"}
    assert "replaced 1 place" in text(await client.call_tool("edit_file", edit))
    assert (await client.call_tool("edit_file", edit)).is_error
    assert text(await client.call_tool("read_file", {"path": "site/index.html"})) == "<p>two é</p>\n"
    assert "/home/user/site/" in text(await client.call_tool("list_files", {}))
    content = {"path": "a.bin", "content": base64.b64encode(bytes(range(256))).decode(), "is_base64": True}
    await client.call_tool("write_file", content)
    refused = await client.call_tool("read_file", {"path": "a.bin"})
    assert refused.is_error
    resource = await client.read_resource(refused.content[0].text.split()[-1])
    assert base64.b64decode(resource.contents[0].blob) == bytes(range(256))
    denied = await client.call_tool("write_file", {"path": "/etc/passwd", "content": ""})
    assert denied.is_error and "ermission denied" in denied.content[0].text

    # A server in the sandbox, reached from outside.
    await client.call_tool("run_command", {"command": "cd site && python3 -m http.server 8000", "background": True})
    published = (await client.call_tool("publish_port", {"port": 8000})).structured_content
    assert await fetch(published) == "<p>two é</p>\n"

    # A second sandbox, apart from the first one.
    created = (await client.call_tool("create_sandbox", {"template": "base", "timeout": 300, "env": {"A": "b"}})).structured_content
    other = {"command": "echo $A; ls site", "sandbox_id": created["sandbox_id"]}
    assert "b\nls: cannot access 'site'" in text(await client.call_tool("run_command", other))
    assert len((await client.call_tool("list_sandboxes", {})).structured_content["sandboxes"]) == 2
    text(await client.call_tool("end_sandbox", {"sandbox_id": created["sandbox_id"]}))
    gone = await client.call_tool("run_command", other)
    assert gone.is_error and "does not exist" in gone.content[0].text


@TRANSPORTS
def test_an_agent_works_in_a_sandbox(connect):
    async def main():
        async with Client(connect()) as client:
            await use(client)

    anyio.run(main)


@TRANSPORTS
def test_progress_comes_while_a_command_runs_and_a_cancelled_command_is_killed(connect):
    async def main():
        reports = []

        async def report(progress, total, message):
            reports.append((progress, message))

        async with Client(connect()) as client:
            command = "for i in 1 2 3; do echo step $i; sleep 1; done"
            result = await client.call_tool("run_command", {"command": command}, progress_callback=report)
            assert text(result) == "step 1\nstep 2\nstep 3\n[exit code 0]"
            assert [number for number, _ in reports] == list(range(1, len(reports) + 1))
            assert any(message == "step 2" for _, message in reports)

            # The client cancels what it waits for no longer.
            with pytest.raises(MCPError):
                await client.call_tool("run_command", {"command": "sleep 4321"}, read_timeout_seconds=1)
            began = time.monotonic()
            await client.send_ping()
            assert time.monotonic() - began < 30
            while True:
                found = await client.call_tool("run_command", {"command": "pgrep -fx 'sleep 4321'; true"})
                if text(found) == "[no output]\n[exit code 0]":
                    break

    anyio.run(main)


def test_calls_run_at_the_same_time():
    async def main():
        async with Client(stdio()) as client:
            # Each waits for the other one.
            first = "mkfifo /tmp/a /tmp/b 2>/dev/null; echo 1 > /tmp/a; cat /tmp/b"
            second = "mkfifo /tmp/a /tmp/b 2>/dev/null; cat /tmp/a; echo 2 > /tmp/b"
            results = {}

            async def run(name, command):
                results[name] = text(await client.call_tool("run_command", {"command": command, "timeout": 60}))

            async with anyio.create_task_group() as group:
                group.start_soon(run, "first", first)
                group.start_soon(run, "second", second)
            assert results == {"first": "2\n[exit code 0]", "second": "1\n[exit code 0]"}

    anyio.run(main)


def test_a_wrong_key_is_refused():
    async def main():
        headers = {"Authorization": "Bearer e2b_0000"}
        wrong = streamable_http_client(os.environ["MCP_URL"], http_client=create_mcp_http_client(headers=headers))
        with pytest.raises(Exception):
            async with Client(wrong):
                pass

    anyio.run(main)
