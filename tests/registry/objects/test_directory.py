"""What a directory store withstands: power cuts, kills, full and forbidden disks, planted links."""

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from promptreg.digests import Digest
from promptreg.errors import ObjectTooLargeError, StoreFullError, StoreUnavailableError
from promptreg.objects import MAX_OBJECT_SIZE, DirectoryStore

_PROMPT = b"prompt" * 1000
_DIGEST = Digest.of(_PROMPT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root)


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if not path.is_dir())


# What it writes


def test_files_and_folders_are_for_their_owner_only(store: DirectoryStore, root: Path) -> None:
    before = os.umask(0)
    try:
        store.put(_PROMPT)
        store.put_record("acme/sst2@1.json", b"{}")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in _files(root)}
    assert modes == {0o600}
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_an_object_lies_under_its_digest_and_nothing_else_lies_there(
    store: DirectoryStore, root: Path
) -> None:
    store.put(_PROMPT)
    assert _files(root) == [root / _DIGEST.key]
    assert (root / _DIGEST.key).read_bytes() == _PROMPT


def test_storing_again_writes_nothing(store: DirectoryStore, root: Path) -> None:
    store.put(_PROMPT)
    before = (root / _DIGEST.key).stat()
    store.put(_PROMPT)
    after = (root / _DIGEST.key).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_opening_a_store_makes_nothing(root: Path) -> None:
    store = DirectoryStore(root)
    assert not store.has(_DIGEST)
    assert not root.exists()


def test_a_relative_root_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = DirectoryStore(Path("objects"))
    store.put(_PROMPT)
    monkeypatch.chdir("/")
    assert store.get(_DIGEST) == _PROMPT
    assert str(store) == str(tmp_path / "objects")


def test_a_root_that_is_removed_while_the_store_is_open_is_made_again(
    store: DirectoryStore, root: Path
) -> None:
    store.put(_PROMPT)
    root.rename(root.with_name("moved away"))
    store.put(_PROMPT)
    assert store.get(_DIGEST) == _PROMPT


# In which order


class _Journal:
    """Notes which inode is synced, renamed or made, in the order in which the system is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, int]] = []
        fsync, rename, mkdir = os.fsync, os.rename, os.mkdir

        def note_fsync(file: int) -> None:
            fsync(file)
            self.calls.append(("sync", os.fstat(file).st_ino))

        def note_rename(source: str, target: str, **folders: int) -> None:
            rename(source, target, **folders)
            inode = os.stat(target, dir_fd=folders["dst_dir_fd"]).st_ino
            self.calls.append(("rename", inode))

        def note_mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            mkdir(path, *args, **kwargs)
            inode = os.stat(path, dir_fd=kwargs.get("dir_fd")).st_ino
            self.calls.append(("make", inode))

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "rename", note_rename)
        monkeypatch.setattr(os, "mkdir", note_mkdir)

    def at(self, call: str, path: Path) -> int:
        return self.calls.index((call, path.stat().st_ino))

    def last(self, call: str, path: Path) -> int:
        return len(self.calls) - 1 - self.calls[::-1].index((call, path.stat().st_ino))


def test_an_object_is_on_disk_before_it_has_its_name_and_its_name_before_it_is_acknowledged(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = _Journal(monkeypatch)
    store.put(_PROMPT)
    path = root / _DIGEST.key
    assert journal.at("sync", path) < journal.at("rename", path) < journal.last("sync", path.parent)


def test_a_new_folder_is_on_disk_before_an_object_in_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = _Journal(monkeypatch)
    root = tmp_path / "a" / "b"
    DirectoryStore(root).put(_PROMPT)
    folder = (root / _DIGEST.key).parent
    for made in (folder, folder.parent, root, root.parent):
        assert journal.at("make", made) < journal.last("sync", made.parent)


def test_an_object_that_another_process_has_just_written_is_on_disk_before_it_is_acknowledged(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(_PROMPT)
    journal = _Journal(monkeypatch)
    DirectoryStore(root).put(_PROMPT)
    path = root / _DIGEST.key
    for synced in (path, path.parent, path.parent.parent, root):
        assert ("sync", synced.stat().st_ino) in journal.calls


def test_an_object_that_cannot_be_synced_is_not_acknowledged_and_leaves_nothing(
    store: DirectoryStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def fail(file: int) -> None:
        if stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(file)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreUnavailableError, match=r"Input/output error; check the disk"):
        store.put(_PROMPT)
    assert _files(root) == []


# Kills

_WRITER = """
import os, sys
from pathlib import Path
from promptreg.objects import DirectoryStore

store = DirectoryStore(Path(sys.argv[1]))
while True:
    print(store.put(os.urandom(100_000)), flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 7, 25])
def test_a_killed_writer_leaves_every_acknowledged_object_whole_and_no_half_one(
    store: DirectoryStore, root: Path, acknowledged: int
) -> None:
    command = [sys.executable, "-c", _WRITER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(acknowledged)]
        writer.kill()
        lines += [line for line in writer.stdout if line.endswith("\n")]
    for line in lines:
        assert len(store.get(Digest(line.strip()))) == 100_000
    for path in (root / "sha256").rglob("*/*"):
        assert Digest.of(path.read_bytes()).key == str(path.relative_to(root)), "nor any other"
    store.put(_PROMPT)
    assert _files(root / "incoming") == [], "what it left half written has been swept away"


def test_what_a_dead_writer_left_is_swept_away_by_the_next_put(
    store: DirectoryStore, root: Path
) -> None:
    (root / "incoming").mkdir(parents=True)
    (root / "incoming" / "left").write_bytes(b"half a pro")
    store.put(_PROMPT)
    assert _files(root) == [root / _DIGEST.key]


def test_what_a_living_writer_is_writing_is_left_alone(store: DirectoryStore, root: Path) -> None:
    (root / "incoming").mkdir(parents=True)
    part = root / "incoming" / "being-written"
    with part.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store.put(_PROMPT)
        assert part.exists()
    DirectoryStore(root).put(_PROMPT + b"another")
    assert not part.exists()


# Disks that are full, forbidden or broken


def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    mount: Callable[[str], Path],
) -> None:
    disk = mount("size=32k")
    store = DirectoryStore(disk / "objects")
    kept = store.put(bytes(12_000))
    with pytest.raises(StoreFullError, match="No space left on device; nothing half written"):
        store.put(os.urandom(24_000))
    assert _files(disk) == [disk / "objects" / kept.key]
    assert store.get(kept) == bytes(12_000)


def test_a_disk_that_was_full_takes_objects_when_there_is_room_again(
    mount: Callable[[str], Path],
) -> None:
    disk = mount("size=32k")
    store = DirectoryStore(disk / "objects")
    (disk / "something else").write_bytes(bytes(24_000))
    data = os.urandom(20_000)
    with pytest.raises(StoreFullError):
        store.put(data)
    (disk / "something else").unlink()
    assert store.get(store.put(data)) == data


def test_a_limit_on_the_size_of_files_is_said_and_leaves_nothing(
    store: DirectoryStore, root: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StoreFullError, match="File too large"):
            store.put(bytes(8192))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert _files(root) == []


def test_a_read_only_file_system_is_said(mount: Callable[[str], Path]) -> None:
    store = DirectoryStore(mount("ro") / "objects")
    assert not store.has(_DIGEST)
    with pytest.raises(StoreUnavailableError, match=r"read-only; .*PROMPTREG_OBJECTS_URL"):
        store.put(_PROMPT)


def test_a_folder_that_may_not_be_written_is_said(nobody: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"permission denied; let user \d+ read and"):
        DirectoryStore(nobody / "objects").put(_PROMPT)
    assert _files(nobody) == []


def test_an_object_that_may_not_be_read_is_said(nobody: Path) -> None:
    me = os.geteuid()
    with suppress(PermissionError):
        os.seteuid(0)
    nobody.chmod(0o755)
    DirectoryStore(nobody).put(_PROMPT)
    (nobody / _DIGEST.key).chmod(0)
    os.seteuid(me)
    with pytest.raises(StoreUnavailableError, match="permission denied"):
        DirectoryStore(nobody).get(_DIGEST)


def test_a_root_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = DirectoryStore(tmp_path / "file")
    for use in (lambda: store.put(_PROMPT), lambda: store.get(_DIGEST), lambda: store.has(_DIGEST)):
        with pytest.raises(StoreUnavailableError, match="is no folder"):
            use()


def test_a_folder_in_an_objects_place_is_said(store: DirectoryStore, root: Path) -> None:
    (root / _DIGEST.key).mkdir(parents=True)
    with pytest.raises(StoreUnavailableError, match="no regular file; remove what lies there"):
        store.get(_DIGEST)
    with pytest.raises(StoreUnavailableError, match="is a folder; remove what lies there"):
        store.put(_PROMPT)


def test_a_file_that_is_too_large_is_not_read_to_its_end(store: DirectoryStore, root: Path) -> None:
    store.put(_PROMPT)
    os.truncate(root / _DIGEST.key, MAX_OBJECT_SIZE * 1000)
    with pytest.raises(ObjectTooLargeError):
        store.get(_DIGEST)
    store.put(_PROMPT)
    assert store.get(_DIGEST) == _PROMPT


# Planted links


def test_a_root_may_be_a_link_for_its_owner_chose_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "objects").symlink_to(tmp_path / "disk")
    store = DirectoryStore(tmp_path / "objects")
    assert store.get(store.put(_PROMPT)) == _PROMPT


def test_a_link_in_an_objects_place_is_not_followed_by_a_reader(
    store: DirectoryStore, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(_PROMPT)
    path = root / _DIGEST.key
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "secret")
    for use in (store.get, store.has):
        with pytest.raises(StoreUnavailableError, match="symbolic link"):
            use(_DIGEST)


def test_a_link_in_an_objects_place_is_replaced_and_its_target_left_alone(
    store: DirectoryStore, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "victim").write_bytes(b"important")
    path = root / _DIGEST.key
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "victim")
    store.put(_PROMPT)
    assert not path.is_symlink()
    assert store.get(_DIGEST) == _PROMPT
    assert (tmp_path / "victim").read_bytes() == b"important"


@pytest.mark.parametrize("planted", ["sha256", str(Path(_DIGEST.key).parent), "incoming"])
def test_a_link_in_a_folders_place_leads_nobody_out_of_the_store(
    store: DirectoryStore, root: Path, tmp_path: Path, planted: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / planted).parent.mkdir(parents=True)
    (root / planted).symlink_to(elsewhere)
    with pytest.raises(StoreUnavailableError, match="no link is followed there; remove"):
        store.put(_PROMPT)
    assert _files(elsewhere) == []


def test_a_reader_is_not_led_out_of_the_store_either(
    store: DirectoryStore, root: Path, tmp_path: Path
) -> None:
    elsewhere = DirectoryStore(tmp_path / "elsewhere")
    elsewhere.put(_PROMPT)
    root.mkdir()
    (root / "sha256").symlink_to(tmp_path / "elsewhere" / "sha256")
    with pytest.raises(StoreUnavailableError, match="no link is followed there"):
        store.get(_DIGEST)


def test_a_pipe_in_an_objects_place_does_not_make_the_reader_wait(
    store: DirectoryStore, root: Path
) -> None:
    path = root / _DIGEST.key
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(StoreUnavailableError, match="no regular file"):
        store.get(_DIGEST)
    store.put(_PROMPT)
    assert store.get(_DIGEST) == _PROMPT


def test_a_link_left_among_the_incoming_is_not_followed_by_the_sweep(
    store: DirectoryStore, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "victim").write_bytes(b"important")
    (root / "incoming").mkdir(parents=True)
    (root / "incoming" / "link").symlink_to(tmp_path / "victim")
    store.put(_PROMPT)
    assert (tmp_path / "victim").read_bytes() == b"important"
