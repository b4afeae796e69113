import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from promptreg.digests import Digest
from promptreg.errors import ObjectNotFoundError
from promptreg.objects import DirectoryStore, ObjectCache

_PROMPT = b"prompt" * 1000
_DIGEST = Digest.of(_PROMPT)


class _Source:
    """Objects, and how often each was fetched: a store as the cache sees it."""

    def __init__(self, *objects: bytes) -> None:
        self._objects = {Digest.of(data): data for data in objects}
        self.fetched: list[Digest] = []

    def __call__(self, digest: Digest) -> bytes:
        self.fetched.append(digest)
        return self._objects[digest]


@pytest.fixture
def source() -> _Source:
    return _Source(_PROMPT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _objects(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _size(root: Path) -> int:
    return sum(path.stat().st_size for path in _objects(root))


def test_an_object_is_fetched_once(root: Path, source: _Source) -> None:
    cache = ObjectCache(root)
    assert [cache.get(_DIGEST, source) for _ in range(3)] == [_PROMPT] * 3
    assert source.fetched == [_DIGEST]


def test_another_process_finds_it_too(root: Path, source: _Source) -> None:
    ObjectCache(root).get(_DIGEST, source)
    assert ObjectCache(root).get(_DIGEST, source) == _PROMPT
    assert source.fetched == [_DIGEST]


def test_it_keeps_nothing_that_could_not_be_fetched(root: Path, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "objects")
    with pytest.raises(ObjectNotFoundError):
        ObjectCache(root).get(_DIGEST, store.get)
    assert not root.exists()


@pytest.mark.parametrize("damaged", [b"", _PROMPT[:-1], b"P" + _PROMPT[1:], _PROMPT + b"!"])
def test_a_damaged_object_is_fetched_again_before_anyone_sees_it(
    root: Path, source: _Source, damaged: bytes
) -> None:
    cache = ObjectCache(root)
    cache.get(_DIGEST, source)
    (root / _DIGEST.key).write_bytes(damaged)
    assert cache.get(_DIGEST, source) == _PROMPT
    assert (root / _DIGEST.key).read_bytes() == _PROMPT
    assert source.fetched == [_DIGEST] * 2


def test_a_damaged_object_that_cannot_be_fetched_is_gone(root: Path, source: _Source) -> None:
    cache = ObjectCache(root)
    cache.get(_DIGEST, source)
    (root / _DIGEST.key).write_bytes(b"damaged")
    with pytest.raises(KeyError):
        cache.get(_DIGEST, _Source())
    assert _objects(root) == []


def test_files_are_for_their_owner_only(root: Path, source: _Source) -> None:
    ObjectCache(root).get(_DIGEST, source)
    assert (root / _DIGEST.key).stat().st_mode & 0o777 == 0o600
    assert root.stat().st_mode & 0o777 == 0o700


# Its size


def test_it_keeps_to_its_size_and_drops_what_was_used_least_recently(root: Path) -> None:
    prompts = [bytes([number]) * 1000 for number in range(12)]
    source = _Source(*prompts)
    digests = [Digest.of(prompt) for prompt in prompts]
    cache = ObjectCache(root, max_size=8000)
    for when, digest in enumerate(digests[:8]):
        cache.get(digest, source)
        os.utime(root / digest.key, (when, when))
    cache.get(digests[0], source)  # used again, and so the most recently used
    for digest in digests[8:]:
        cache.get(digest, source)
    assert _size(root) <= 8000
    kept = {path.name for path in _objects(root)}
    assert {digest.key.rpartition("/")[2] for digest in (digests[0], *digests[8:])} <= kept
    assert digests[1].key.rpartition("/")[2] not in kept


def test_what_is_larger_than_the_cache_is_not_kept_and_drives_nothing_out(root: Path) -> None:
    source = _Source(_PROMPT, b"small")
    cache = ObjectCache(root, max_size=len(_PROMPT) - 1)
    cache.get(Digest.of(b"small"), source)
    assert cache.get(_DIGEST, source) == _PROMPT
    assert _objects(root) == [root / Digest.of(b"small").key]


def test_many_small_objects_stay_near_its_size(root: Path) -> None:
    prompts = [os.urandom(200) for _ in range(400)]
    source, cache = _Source(*prompts), ObjectCache(root, max_size=20_000)
    for prompt in prompts:
        assert cache.get(Digest.of(prompt), source) == prompt
    # It looks once in 1,250 bytes on average; to miss 15,000 is as likely as e**-12.
    assert _size(root) <= 35_000


# Shared


def test_threads_and_evictions_at_once_return_what_was_asked_for(root: Path) -> None:
    prompts = [bytes([number]) * 1000 for number in range(30)]
    source = _Source(*prompts)

    def read(number: int) -> bool:
        cache = ObjectCache(root, max_size=10_000)
        order = prompts[number:] + prompts[:number]
        return all(cache.get(Digest.of(prompt), source) == prompt for prompt in order)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(read, range(0, 30, 5)))


_READER = """
import sys
from pathlib import Path
from promptreg.digests import Digest
from promptreg.objects import ObjectCache

cache = ObjectCache(Path(sys.argv[1]), max_size=30_000)
prompts = [bytes([number]) * 1000 for number in range(100)]
objects = {Digest.of(prompt): prompt for prompt in prompts}
print("ready", flush=True)
sys.stdin.readline()
for _ in range(3):
    for digest, prompt in objects.items():
        assert cache.get(digest, objects.__getitem__) == prompt
"""


def test_processes_share_it(root: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", _READER, str(root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    for reader in readers:
        reader.communicate("go\n")
    assert [reader.returncode for reader in readers] == [0, 0, 0]
    assert _objects(root / "incoming") == []


# Where it cannot be written


def test_a_cache_on_a_read_only_disk_is_read_and_not_missed_when_it_lacks_something(
    mount: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    disk = mount("size=1m")
    source = _Source(_PROMPT, b"another")
    ObjectCache(disk).get(_DIGEST, source)
    mount("remount,ro")
    cache = ObjectCache(disk)
    assert cache.get(_DIGEST, source) == _PROMPT
    assert source.fetched == [_DIGEST]
    assert caplog.records == []
    assert cache.get(Digest.of(b"another"), source) == b"another"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_pull_goes_on_when_the_disk_of_the_cache_is_full(mount: Callable[[str], Path]) -> None:
    disk = mount("size=16k")
    prompts = [bytes([number]) * 5000 for number in range(5)]
    source, cache = _Source(*prompts), ObjectCache(disk)
    for prompt in prompts * 2:
        assert cache.get(Digest.of(prompt), source) == prompt
    assert _objects(disk / "incoming") == []
    assert 1 <= len(_objects(disk)) < 5


def test_a_pull_goes_on_where_the_cache_may_not_be_made(nobody: Path, source: _Source) -> None:
    assert ObjectCache(nobody / "cache").get(_DIGEST, source) == _PROMPT
    assert _objects(nobody) == []


def _broken_by_a_file(root: Path) -> None:
    root.write_bytes(b"")


def _broken_by_a_link(root: Path) -> None:
    root.mkdir()
    (root / "sha256").symlink_to(root.parent)


def _broken_by_a_pipe(root: Path) -> None:
    (root / _DIGEST.key).parent.mkdir(parents=True)
    os.mkfifo(root / _DIGEST.key)


@pytest.mark.parametrize("broken", [_broken_by_a_file, _broken_by_a_link, _broken_by_a_pipe])
def test_a_pull_goes_on_without_a_cache_that_cannot_be_used_and_says_so_once(
    root: Path,
    source: _Source,
    broken: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken(root)
    cache = ObjectCache(root)
    with caplog.at_level(logging.WARNING):
        assert [cache.get(_DIGEST, source) for _ in range(3)] == [_PROMPT] * 3
    [said] = caplog.messages
    assert said.startswith(f"going on without the cache {root}: ")
