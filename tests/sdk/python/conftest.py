"""Sandboxes of the server under test, by the unchanged SDK. tests/vm/sdk.rs starts the server and sets E2B_API_URL,
E2B_SANDBOX_URL and E2B_API_KEY."""

import pytest
from e2b import Sandbox


@pytest.fixture(scope="session")
def sandbox():
    """A sandbox that all tests share: a start takes many seconds without KVM."""
    sandbox = Sandbox.create("base", metadata={"test": "shared"}, envs={"GREETING": "hello"}, timeout=600)
    yield sandbox
    sandbox.kill()
