"""Commands in sandboxes."""

import pytest
from e2b import CommandExitException, NotFoundException, TimeoutException


def test_a_command_has_output_and_exit_code(sandbox):
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    with pytest.raises(CommandExitException) as error:
        sandbox.commands.run("echo no >&2; exit 3")
    assert (error.value.exit_code, error.value.stderr) == (3, "no\n")


def test_a_command_runs_as_the_user_in_its_home_with_the_environment(sandbox):
    result = sandbox.commands.run('echo "$USER $PWD $GREETING $NAME"', envs={"NAME": "world"})
    assert result.stdout == "user /home/user hello world\n"
    assert sandbox.commands.run("id -u", user="root").stdout == "0\n"


def test_output_comes_while_the_command_runs(sandbox):
    pieces = []
    result = sandbox.commands.run("for i in 1 2 3; do echo $i; done", on_stdout=pieces.append)
    assert "".join(pieces) == result.stdout == "1\n2\n3\n"


def test_a_command_in_the_background_takes_input_and_can_be_followed_again(sandbox):
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    assert handle.pid in [one.pid for one in sandbox.commands.list()]
    handle.disconnect()
    again = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "hello")
    sandbox.commands.close_stdin(handle.pid)
    assert again.wait().stdout == "hello"


def test_a_killed_command_is_gone(sandbox):
    handle = sandbox.commands.run("sleep 1000", background=True)
    assert sandbox.commands.kill(handle.pid)
    with pytest.raises(CommandExitException):
        handle.wait()
    assert not sandbox.commands.kill(handle.pid)


def test_an_unknown_command_is_not_found(sandbox):
    assert not sandbox.commands.kill(1_000_000)
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(1_000_000)


def test_a_time_out_ends_the_wait(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 1000", timeout=1)
