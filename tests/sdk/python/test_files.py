"""Files in sandboxes."""

import urllib.request

import pytest
from e2b import FileType, NotFoundException


def test_a_file_comes_back_as_it_was_written(sandbox):
    content = bytes(range(256)) * 4096
    info = sandbox.files.write("data/é.bin", content)
    assert info.path == "/home/user/data/é.bin"
    assert sandbox.files.read("data/é.bin", format="bytes") == content
    assert sandbox.commands.run("stat -c '%U %s' data/é.bin").stdout == "user 1048576\n"


def test_many_files_are_written_at_once(sandbox):
    files = [{"path": f"many/{number}", "data": str(number)} for number in range(10)]
    sandbox.files.write_files(files)
    assert sorted(entry.name for entry in sandbox.files.list("many")) == [str(n) for n in range(10)]
    assert sandbox.files.read("many/7") == "7"


def test_files_are_made_moved_and_removed(sandbox):
    assert sandbox.files.make_dir("folder/below")
    assert not sandbox.files.make_dir("folder/below")
    assert sandbox.files.get_info("folder").type == FileType.DIR
    sandbox.files.rename("folder", "renamed")
    assert sandbox.files.exists("renamed/below") and not sandbox.files.exists("folder")
    sandbox.files.remove("renamed")
    assert not sandbox.files.exists("renamed")
    with pytest.raises(NotFoundException):
        sandbox.files.read("renamed")


def test_a_watch_reports_changes(sandbox):
    sandbox.files.make_dir("watched")
    watch = sandbox.files.watch_dir("watched")
    sandbox.files.write("watched/new", "x")
    events = []
    # A request for the events does not wait for them.
    while not any(event.name == "new" for event in events):
        events += watch.get_new_events()
    watch.stop()


def test_a_signed_url_needs_no_key(sandbox):
    sandbox.files.write("signed.txt", "signed")
    with urllib.request.urlopen(sandbox.download_url("signed.txt")) as reply:
        assert reply.read() == b"signed"
