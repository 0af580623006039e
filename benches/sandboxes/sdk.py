"""E2B's Python SDK against the commands of the runner, in turns. main.rs starts the server and sets the environment."""

import os
import statistics
import subprocess
import tempfile
import time

from e2b import Sandbox

RUNNER = os.environ["RUNNER"]
ROUNDS = 7
SIZE = 100_000_000

# What the SDK has a sandbox run.
SHELL = ["/bin/bash", "-l", "-c"]


def runner(*arguments):
    return subprocess.run([RUNNER, "--quiet", *arguments], check=True, capture_output=True, text=True).stdout


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def wait_for_warm_vm():
    """The server makes the next warm VM in the background: its log says when one is ready, and when one is taken."""
    while True:
        with open(os.environ["SERVER_LOG"]) as log:
            text = log.read()
        if text.count("a vm is warm; ") > text.count("a warm vm is claimed; "):
            return
        time.sleep(0.2)


def create_and_run():
    """From the call to the first output of a command."""
    first = []
    start = time.perf_counter()
    sandbox = Sandbox.create("base", timeout=600)
    sandbox.commands.run("echo hello", on_stdout=lambda _: first.append(time.perf_counter()))
    sandbox.kill()
    return first[0] - start


def starts():
    running = Sandbox.create("base", timeout=600)
    vm = f"sandbox-{running.sandbox_id}"
    created, executed, plain = [], [], []
    for _ in range(ROUNDS):
        wait_for_warm_vm()
        executed.append(seconds(lambda: runner("exec", vm, "--", *SHELL, "echo hello")))
        plain.append(seconds(lambda: runner("exec", vm, "--", "echo", "hello")))
        created.append(create_and_run())
    running.kill()
    report("create to first output, ms", created, "runner exec of the same shell", executed, 1000)
    report("create to first output, ms", created, "runner exec of echo", plain, 1000)


def transfers():
    sandbox = Sandbox.create("base", timeout=600)
    vm = f"sandbox-{sandbox.sandbox_id}"
    times = {name: [] for name in ("up", "cp up", "down", "cp down")}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "data")
        with open(path, "wb") as file:
            file.write(os.urandom(SIZE))
        for _ in range(3):
            with open(path, "rb") as file:
                times["up"].append(seconds(lambda: sandbox.files.write("data", file)))
            times["cp up"].append(seconds(lambda: runner("cp", path, f"{vm}:/home/user/data")))
            times["down"].append(seconds(lambda: download(sandbox, os.path.join(folder, "down"))))
            back = os.path.join(folder, "back")
            times["cp down"].append(seconds(lambda: runner("cp", f"{vm}:/home/user/data", back)))
    sandbox.kill()
    report("100 MB up, s", times["up"], "runner cp", times["cp up"], 1)
    report("100 MB down, s", times["down"], "runner cp", times["cp down"], 1)


def download(sandbox, path):
    with open(path, "wb") as file:
        for chunk in sandbox.files.read("data", format="stream"):
            file.write(chunk)


def report(what, ours, against, theirs, scale):
    ours, theirs = (statistics.median(times) * scale for times in (ours, theirs))
    print(f"{what}: {ours:.4g}, {against} {theirs:.4g}, ratio {ours / theirs:.2f}", flush=True)


starts()
transfers()
