"""E2B's code interpreter, unchanged, with a server of this test's in the sandbox."""

from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

SERVER = Path(__file__).parent.parent / "server" / "code_interpreter.py"


@pytest.fixture(scope="module")
def interpreter():
    # Of the template that it asks for by itself, which is a profile of the server under test.
    sandbox = Sandbox.create(timeout=600)
    sandbox.files.write("server.py", SERVER.read_text())
    server = sandbox.commands.run("python3 server.py", background=True, timeout=0)
    assert next(iter(server))[0] == "listening\n"
    yield sandbox
    sandbox.kill()


def test_code_has_output_a_result_and_variables_that_stay(interpreter):
    assert interpreter.get_info().template_id == "code-interpreter-v1"
    pieces = []
    execution = interpreter.run_code("x = 20\nprint('hello')\nx + 1", on_stdout=lambda line: pieces.append(line.line))
    assert "".join(execution.logs.stdout) == "".join(pieces) == "hello\n"
    assert (execution.text, execution.error) == ("21", None)
    assert interpreter.run_code("x * 2").text == "40"


def test_an_error_of_the_code_is_part_of_its_execution(interpreter):
    error = interpreter.run_code("1 / 0").error
    assert (error.name, error.value) == ("ZeroDivisionError", "division by zero")


def test_a_context_has_its_own_variables(interpreter):
    context = interpreter.create_code_context()
    assert context.id in [one.id for one in interpreter.list_code_contexts()]
    assert interpreter.run_code("y = 1", context=context).error is None
    assert interpreter.run_code("y").error.name == "NameError"
    interpreter.remove_code_context(context)
    assert context.id not in [one.id for one in interpreter.list_code_contexts()]
