"""The life of sandboxes."""

from datetime import datetime, timedelta, timezone

import pytest
from e2b import Sandbox, SandboxException, SandboxNotFoundException, SandboxQuery, SandboxState


def test_a_sandbox_has_the_metadata_and_the_time_that_it_was_created_with(sandbox):
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.template_id == "base"
    assert info.metadata == {"test": "shared"}
    assert info.state == SandboxState.RUNNING
    assert info.end_at - info.started_at >= timedelta(seconds=599)


def test_a_list_has_the_sandboxes_with_the_metadata(sandbox):
    found = Sandbox.list(query=SandboxQuery(metadata={"test": "shared"})).next_items()
    assert [one.sandbox_id for one in found] == [sandbox.sandbox_id]
    assert Sandbox.list(query=SandboxQuery(metadata={"test": "other"})).next_items() == []


def test_set_timeout_moves_the_end(sandbox):
    sandbox.set_timeout(900)
    left = sandbox.get_info().end_at - datetime.now(timezone.utc)
    assert timedelta(seconds=800) < left <= timedelta(seconds=900)


def test_an_unknown_template_is_refused_by_name():
    with pytest.raises(SandboxException, match="no-such-template"):
        Sandbox.create("no-such-template")


def test_a_host_name_in_allow_out_needs_that_all_else_is_denied():
    with pytest.raises(SandboxException, match="0.0.0.0/0"):
        Sandbox.create("base", network={"allow_out": ["example.com"]})


def test_an_unknown_sandbox_is_not_found():
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect("i0123456789abcdefghij")
    assert not Sandbox.kill("i0123456789abcdefghij")


def test_a_paused_sandbox_goes_on_with_its_processes_until_it_is_killed():
    sandbox = Sandbox.create("base", timeout=300)
    try:
        process = sandbox.commands.run("sleep 1000", background=True)
        assert sandbox.is_running()
        sandbox.pause()
        assert sandbox.get_info().state == SandboxState.PAUSED
        assert not sandbox.is_running()
        same = Sandbox.connect(sandbox.sandbox_id, timeout=300)
        assert process.pid in [one.pid for one in same.commands.list()]
    finally:
        assert sandbox.kill()
    assert not sandbox.is_running()
    assert not sandbox.kill()
