"""What every object store does, tried on each."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from promptreg.digests import Digest
from promptreg.errors import (
    CorruptObjectError,
    InvalidNameError,
    ObjectNotFoundError,
    ObjectTooLargeError,
)
from promptreg.objects import MAX_OBJECT_SIZE, ObjectStore, open_store

_LARGE = 100 * 8192 * 4  # a prompt of 100 tokens for a base 8,192 wide

_FORKS = """
import os, sys
from promptreg.objects import open_store

store = open_store(sys.argv[1])
digest = store.put(b"before the fork")  # so that there is a connection that could be shared
children = []
for number in range(4):
    child = os.fork()
    if not child:
        for round in range(5):
            same, own = f"everyone's {round}".encode(), f"of {number} in {round}".encode()
            assert store.get(store.put(same)) == same
            assert store.get(store.put(own)) == own
        assert store.get(digest) == b"before the fork"
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
assert store.get(digest) == b"before the fork"
"""


class ObjectStoreContract:
    """Subclass this and give it a ``url`` fixture to try a new backend."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[ObjectStore]:
        with open_store(url) as store:
            yield store

    @pytest.mark.parametrize("size", [0, 1, 256_000, _LARGE])
    def test_get_returns_what_put_stored(self, store: ObjectStore, size: int) -> None:
        data = os.urandom(size)
        digest = store.put(data)
        assert digest == Digest.of(data)
        assert store.get(digest) == data

    def test_put_twice_is_put_once(self, store: ObjectStore) -> None:
        assert store.put(b"prompt") == store.put(b"prompt")
        assert store.get(Digest.of(b"prompt")) == b"prompt"

    def test_objects_are_still_there_when_the_store_is_opened_again(
        self, store: ObjectStore, url: str
    ) -> None:
        digest = store.put(b"prompt")
        assert open_store(url).get(digest) == b"prompt"

    def test_get_names_the_store_that_lacks_the_object(self, store: ObjectStore) -> None:
        store.put(b"prompt")
        with pytest.raises(ObjectNotFoundError, match=str(store)):
            store.get(Digest.of(b"never stored"))

    def test_get_from_a_store_that_was_never_written_finds_nothing(
        self, store: ObjectStore
    ) -> None:
        with pytest.raises(ObjectNotFoundError):
            store.get(Digest.of(b"never stored"))

    def test_has_tells_what_is_there(self, store: ObjectStore) -> None:
        digest = Digest.of(b"prompt")
        assert not store.has(digest)
        store.put(b"prompt")
        assert store.has(digest)

    @pytest.mark.parametrize("changed", [b"Prompt", b"", b"prom", b"prompt and more"])
    def test_get_refuses_bytes_that_were_changed(self, store: ObjectStore, changed: bytes) -> None:
        digest = store.put(b"prompt")
        store._write(digest.key, changed)
        with pytest.raises(CorruptObjectError, match=str(Digest.of(changed))):
            store.get(digest)

    @pytest.mark.parametrize("changed", [b"Prompt", b"", b"prom", b"prompt and more"])
    def test_put_mends_bytes_that_were_changed(self, store: ObjectStore, changed: bytes) -> None:
        digest = store.put(b"prompt")
        store._write(digest.key, changed)
        store.put(b"prompt")
        assert store.get(digest) == b"prompt"

    def test_put_refuses_what_is_too_large_to_be_a_prompt(self, store: ObjectStore) -> None:
        data = bytes(MAX_OBJECT_SIZE + 1)
        with pytest.raises(ObjectTooLargeError, match="67,108,864"):
            store.put(data)
        assert not store.has(Digest.of(data))

    def test_a_read_stops_at_its_limit(self, store: ObjectStore) -> None:
        key = store.put(b"prompt").key
        assert store._read(key, 3) == b"pro"
        assert store._read(key, 6) == b"prompt"
        assert store._read(key, 7) == b"prompt"
        assert store.get(Digest.of(b"prompt")) == b"prompt", "and the connection is still of use"

    def test_a_second_record_takes_the_place_of_the_first(self, store: ObjectStore) -> None:
        store.put_record("acme/mail-spam@3.json", b"first")
        store.put_record("acme/mail-spam@3.json", b"second")
        assert store._read("records/acme/mail-spam@3.json", 100) == b"second"

    def test_the_records_of_a_task_and_of_tasks_below_it_do_not_collide(
        self, store: ObjectStore
    ) -> None:
        store.put_record("acme@1.json", b"acme")
        store.put_record("acme/1.json@1.json", b"acme/1.json")
        assert store._read("records/acme@1.json", 100) == b"acme"
        assert store._read("records/acme/1.json@1.json", 100) == b"acme/1.json"

    @pytest.mark.parametrize(
        "name", ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "A", "a b", "a\0", "a\n"]
    )
    def test_a_record_outside_the_grammar_is_refused(self, store: ObjectStore, name: str) -> None:
        with pytest.raises(InvalidNameError):
            store.put_record(name, b"record")

    def test_threads_that_put_the_same_bytes_at_once_all_succeed(self, store: ObjectStore) -> None:
        barrier = Barrier(8)

        def put(_: int) -> Digest:
            barrier.wait()
            return store.put(b"prompt" * 10_000)

        with ThreadPoolExecutor(8) as pool:
            digests = set(pool.map(put, range(8)))
        assert digests == {Digest.of(b"prompt" * 10_000)}
        assert store.get(digests.pop()) == b"prompt" * 10_000

    def test_threads_that_put_different_bytes_at_once_do_not_mix_them(
        self, store: ObjectStore
    ) -> None:
        prompts = [os.urandom(5000) for _ in range(40)]
        with ThreadPoolExecutor(8) as pool:
            digests = list(pool.map(store.put, prompts))
            assert list(pool.map(store.get, digests)) == prompts

    def test_processes_forked_from_one_that_used_the_store_use_it_at_once(self, url: str) -> None:
        subprocess.run([sys.executable, "-W", "error", "-c", _FORKS, url], check=True, timeout=120)


class TestDirectoryStore(ObjectStoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return str(tmp_path / "objects")


class TestS3StoreOnMoto(ObjectStoreContract):
    @pytest.fixture
    def url(self, moto_url: str) -> str:
        return moto_url


class TestS3StoreOnSeaweedFS(ObjectStoreContract):
    @pytest.fixture
    def url(self, seaweedfs_url: str) -> str:
        return seaweedfs_url
