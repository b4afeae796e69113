"""What an S3 store asks of the network and the server, and what it withstands from them."""

import dataclasses
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any

import pytest

from engines_s3 import S3Server, use_credentials
from faulty_proxy import (
    Fault,
    FaultyProxy,
    answer,
    break_off,
    change_request,
    change_response,
    drip,
    forget_to_answer,
    hang,
    hang_up,
    page,
    running_proxy,
    without_header,
)
from promptreg.digests import Digest
from promptreg.errors import (
    CorruptObjectError,
    ObjectNotFoundError,
    StoreFullError,
    StoreUnavailableError,
)
from promptreg.objects import ObjectStore, open_store
from promptreg.objects.clients import keep_deadline
from promptreg.objects.s3 import S3Store

_PROMPT = b"prompt" * 50_000
_DIGEST = Digest.of(_PROMPT)


@pytest.fixture
def proxy(seaweedfs_server: S3Server) -> Iterator[FaultyProxy]:
    with running_proxy(seaweedfs_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def prefix(seaweedfs_url: str) -> str:
    """A prefix of this test's own; and boto3 finds the credentials."""
    return seaweedfs_url.partition("?")[0].rpartition("/")[2]


@pytest.fixture
def store(seaweedfs_url: str) -> ObjectStore:
    return open_store(seaweedfs_url)


@pytest.fixture
def far_store(seaweedfs_server: S3Server, proxy: FaultyProxy, prefix: str) -> ObjectStore:
    """A store behind the proxy."""
    return open_store(dataclasses.replace(seaweedfs_server, endpoint=proxy.url).url(prefix))


@pytest.fixture(scope="module")
def bare(seaweedfs_server: S3Server) -> Iterator[Any]:
    """What somebody else does to the bucket."""
    client = seaweedfs_server.client()
    yield client
    client.close()


# What it asks


def test_to_put_a_new_object_is_one_request(far_store: ObjectStore, proxy: FaultyProxy) -> None:
    far_store.put(_PROMPT)
    assert proxy.methods == ["PUT"]
    headers = proxy.requests[0][2]
    assert headers["if-none-match"] == "*"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-length"] == str(len(_PROMPT))
    assert "x-amz-checksum-sha256" in headers
    signed = re.search("SignedHeaders=([^,]*)", headers["authorization"])
    assert signed is not None
    assert {"if-none-match", "x-amz-checksum-sha256"} <= set(signed[1].split(";"))


def test_to_get_an_object_is_one_request(far_store: ObjectStore, proxy: FaultyProxy) -> None:
    far_store.put(_PROMPT)
    proxy.plan()
    assert far_store.get(_DIGEST) == _PROMPT
    assert proxy.methods == ["GET"]


def test_to_look_for_an_object_reads_nothing(far_store: ObjectStore, proxy: FaultyProxy) -> None:
    far_store.put(_PROMPT)
    proxy.plan()
    assert far_store.has(_DIGEST)
    assert proxy.methods == ["HEAD"]


def test_opening_a_store_asks_nothing(far_store: ObjectStore, proxy: FaultyProxy) -> None:
    assert str(far_store).startswith("s3://prompts/test-")
    assert proxy.methods == []


def test_the_keys_are_below_the_prefix(store: ObjectStore, prefix: str, bare: Any) -> None:
    store.put(_PROMPT)
    store.put_record("sst2@1.json", b"{}")
    listed = bare.list_objects_v2(Bucket="prompts", Prefix=prefix)["Contents"]
    keys = {entry["Key"] for entry in listed}
    assert keys == {f"{prefix}/{_DIGEST.key}", f"{prefix}/records/sst2@1.json"}


def test_stores_of_different_prefixes_do_not_see_each_other(
    seaweedfs_server: S3Server, prefix: str
) -> None:
    one, other = (open_store(seaweedfs_server.url(f"{prefix}/{name}")) for name in ("a", "b"))
    one.put(_PROMPT)
    assert not other.has(_DIGEST)


# Integrity, which only a server that checks can show


def test_bytes_that_change_on_the_way_there_are_not_stored(
    far_store: ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.plan(change_request)
    with pytest.raises(StoreUnavailableError, match="the bytes changed on the way"):
        far_store.put(_PROMPT)
    assert not far_store.has(_DIGEST)


def test_the_server_refuses_bytes_that_do_not_have_the_sum(store: ObjectStore) -> None:
    assert isinstance(store, S3Store)
    wrong = "A" * 43 + "="
    changed = pytest.raises(StoreUnavailableError, match="the bytes changed on the way")
    with changed, store._translating():
        store._put(_DIGEST.key, _PROMPT, wrong)
    assert not store.has(_DIGEST)


def test_bytes_that_change_on_the_way_back_are_refused(
    far_store: ObjectStore, proxy: FaultyProxy
) -> None:
    far_store.put(_PROMPT)
    proxy.plan(change_response)
    with pytest.raises(CorruptObjectError):
        far_store.get(_DIGEST)


@pytest.mark.parametrize("changed", [b"P" + _PROMPT[1:], b"", _PROMPT + b"!"])
@pytest.mark.parametrize("sum_sent", ["none", "SHA256", "CRC32"])
def test_an_object_that_somebody_else_changed_is_refused_and_mended_by_a_put(
    store: ObjectStore, prefix: str, bare: Any, changed: bytes, sum_sent: str
) -> None:
    store.put(_PROMPT)
    algorithm = {} if sum_sent == "none" else {"ChecksumAlgorithm": sum_sent}
    bare.put_object(Bucket="prompts", Key=f"{prefix}/{_DIGEST.key}", Body=changed, **algorithm)
    with pytest.raises(CorruptObjectError):
        store.get(_DIGEST)
    store.put(_PROMPT)
    assert store.get(_DIGEST) == _PROMPT


def test_an_object_that_was_copied_there_without_its_sum_is_not_sent_again(
    far_store: ObjectStore, proxy: FaultyProxy, prefix: str, bare: Any
) -> None:
    bare.put_object(Bucket="prompts", Key=f"{prefix}/{_DIGEST.key}", Body=_PROMPT)
    far_store.put(_PROMPT)
    assert proxy.methods == ["PUT", "HEAD", "GET"]


# Who may


def test_a_wrong_secret_is_refused(
    seaweedfs_server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_credentials(monkeypatch, seaweedfs_server.access_key, "wrong")
    store = open_store(seaweedfs_server.url(prefix))
    for use in (lambda: store.put(_PROMPT), lambda: store.get(_DIGEST)):
        with pytest.raises(StoreUnavailableError, match=r"secret key does not fit.*; check AWS_"):
            use()
    with pytest.raises(StoreUnavailableError, match="access was denied"):
        store.has(_DIGEST)


def test_an_unknown_access_key_is_refused(
    seaweedfs_server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_credentials(monkeypatch, "NOBODY", "wrong")
    with pytest.raises(StoreUnavailableError, match="access key is not known there"):
        open_store(seaweedfs_server.url(prefix)).put(_PROMPT)


def test_one_who_may_only_read_can_get_and_not_put(
    seaweedfs_server: S3Server, store: ObjectStore, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(_PROMPT)
    use_credentials(monkeypatch, *seaweedfs_server.reader)
    reader = open_store(seaweedfs_server.url(prefix))
    assert reader.get(_DIGEST) == _PROMPT
    assert reader.has(_DIGEST)
    with pytest.raises(StoreUnavailableError, match=r"access was denied.*s3:PutObject"):
        reader.put(b"another")


def test_no_credentials_are_said(
    seaweedfs_server: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreUnavailableError, match="finds no credentials; check AWS_ACCESS"):
        open_store(seaweedfs_server.url(prefix)).put(_PROMPT)


# What is not there


@pytest.mark.usefixtures("prefix")
def test_a_bucket_that_is_not_there_is_said(seaweedfs_server: S3Server) -> None:
    store = open_store(seaweedfs_server.url("prefix", bucket="not-there"))
    uses = (
        lambda: store.put(_PROMPT),
        lambda: store.get(_DIGEST),
        lambda: store.has(_DIGEST),
        lambda: store.put_record("sst2@1.json", b"{}"),
    )
    for use in uses:
        with pytest.raises(StoreUnavailableError, match=r"no such bucket.*not-there.*; create it"):
            use()


def test_a_service_that_does_not_run_is_said(seaweedfs_server: S3Server, prefix: str) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        store = open_store(dataclasses.replace(seaweedfs_server, endpoint=endpoint).url(prefix))
        for use in (lambda: store.put(_PROMPT), lambda: store.get(_DIGEST)):
            with pytest.raises(StoreUnavailableError, match=f"{endpoint} cannot be reached; check"):
                use()


# A network that fails now and then


@pytest.mark.parametrize(
    "fault",
    [answer(503, "ServiceUnavailable"), answer(500, "InternalError"), answer(502), hang_up],
    ids=["503", "500", "502 without a body", "cut"],
)
def test_a_request_that_fails_is_made_again(
    far_store: ObjectStore, proxy: FaultyProxy, fault: Fault
) -> None:
    proxy.plan(fault, fault)
    far_store.put(_PROMPT)
    assert proxy.methods == ["PUT"] * 3
    proxy.plan(fault, fault)
    assert far_store.get(_DIGEST) == _PROMPT
    assert proxy.methods == ["GET"] * 3


@pytest.mark.parametrize("after", [0, 1, 200_000])
def test_an_answer_that_breaks_off_is_asked_for_again(
    far_store: ObjectStore, proxy: FaultyProxy, after: int
) -> None:
    far_store.put(_PROMPT)
    proxy.plan(break_off(after), break_off(after))
    assert far_store.get(_DIGEST) == _PROMPT
    assert proxy.methods == ["GET"] * 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (answer(503, "ServiceUnavailable"), "answers 503 ServiceUnavailable .said the proxy."),
        (hang_up, "cut the connection"),
        (break_off(1000), "cut the connection"),
    ],
    ids=["503", "cut", "broken off"],
)
def test_a_network_that_always_fails_is_said_after_four_attempts(
    far_store: ObjectStore, proxy: FaultyProxy, fault: Fault, reason: str
) -> None:
    far_store.put(_PROMPT)
    proxy.plan(*[fault] * 4)
    with pytest.raises(StoreUnavailableError, match=f"{reason}; run the command again later"):
        far_store.get(_DIGEST)
    assert proxy.methods == ["GET"] * 4


def test_a_put_whose_answer_was_lost_finds_its_own_object(
    far_store: ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.plan(forget_to_answer)
    far_store.put(_PROMPT)
    assert proxy.answers == [
        ("PUT", proxy.requests[1][1], 412),
        ("HEAD", proxy.requests[2][1], 200),
    ]
    assert far_store.get(_DIGEST) == _PROMPT


@pytest.mark.parametrize(("seconds", "attempts"), [(1.6, 1), (30, 3)])
def test_no_attempt_is_begun_that_might_end_after_the_deadline(
    seaweedfs_server: S3Server, proxy: FaultyProxy, prefix: str, seconds: float, attempts: int
) -> None:
    server = dataclasses.replace(seaweedfs_server, endpoint=proxy.url)
    client = server.client(
        connect_timeout=1, read_timeout=0.5, retries={"mode": "standard", "total_max_attempts": 3}
    )
    keep_deadline(client, seconds)
    proxy.always = hang
    with pytest.raises(
        StoreUnavailableError, match="did not answer in time; run the command again"
    ):
        S3Store(lambda: client, server.bucket, prefix).get(_DIGEST)
    client.close()
    proxy.wait_for(attempts)
    assert proxy.methods == ["GET"] * attempts


def test_bytes_that_drip_in_are_waited_for_only_until_the_deadline(
    seaweedfs_server: S3Server, proxy: FaultyProxy, prefix: str
) -> None:
    client = dataclasses.replace(seaweedfs_server, endpoint=proxy.url).client()
    store = S3Store(lambda: client, seaweedfs_server.bucket, prefix, deadline=0.1)
    store.put(_PROMPT)
    proxy.plan(drip)
    with pytest.raises(StoreUnavailableError, match="did not answer in time"):
        store.get(_DIGEST)
    client.close()


# Servers that do not do all of S3


def test_a_conflict_between_writers_is_put_again(
    far_store: ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.plan(answer(409, "ConditionalRequestConflict"))
    far_store.put(_PROMPT)
    assert proxy.methods == ["PUT", "PUT"]
    assert far_store.get(_DIGEST) == _PROMPT


def test_a_server_that_refuses_conditions_is_asked_for_none_again(
    far_store: ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.plan(answer(501, "NotImplemented", "A header implies what is not implemented"))
    far_store.put(_PROMPT)
    far_store.put(b"another")
    conditions = ["if-none-match" in headers for _, _, headers in proxy.requests]
    assert conditions == [True, False, False]
    assert far_store.get(_DIGEST) == _PROMPT


def test_a_server_that_ignores_conditions_stores_the_same_bytes_again(
    moto_server: S3Server, moto_url: str
) -> None:
    prefix = moto_url.partition("?")[0].rpartition("/")[2]
    with running_proxy(moto_server.endpoint) as proxy:  # moto does not mind that it was signed
        proxy.always = without_header("If-None-Match")
        store = open_store(dataclasses.replace(moto_server, endpoint=proxy.url).url(prefix))
        store.put(_PROMPT)
        store.put(_PROMPT)
        assert store.get(_DIGEST) == _PROMPT
    assert [status for _, _, status in proxy.answers] == [200, 200, 200]


@pytest.mark.parametrize(
    ("status", "code"),
    [(507, "XMinioStorageFull"), (507, ""), (403, "QuotaExceeded"), (400, "InsufficientStorage")],
)
def test_a_server_without_room_is_said(
    far_store: ObjectStore, proxy: FaultyProxy, status: int, code: str
) -> None:
    proxy.plan(answer(status, code))
    with pytest.raises(StoreFullError, match=r"is full: .*; free some space"):
        far_store.put(_PROMPT)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "AuthorizationHeaderMalformed", "another region.*; put the bucket's region into"),
        (400, "ExpiredToken", "credentials have expired.*; log in again"),
        (403, "RequestTimeTooSkewed", "clocks differ.*; set this machine's clock"),
        (403, "AllAccessDisabled", "access was denied.*; allow these credentials"),
        (400, "InvalidBucketName", "no bucket can have that name"),
        (418, "Teapot", "answers 418 Teapot .said the proxy.; check the endpoint"),
    ],
)
def test_what_a_server_answers_is_said_with_what_mends_it(
    far_store: ObjectStore, proxy: FaultyProxy, status: int, code: str, words: str
) -> None:
    proxy.always = answer(status, code)
    for use in (lambda: far_store.put(_PROMPT), lambda: far_store.get(_DIGEST)):
        with pytest.raises(StoreUnavailableError, match=words):
            use()


def test_a_bucket_in_another_region_is_said(far_store: ObjectStore, proxy: FaultyProxy) -> None:
    proxy.plan(answer(301, "PermanentRedirect"), answer(404))  # boto3 asks where the bucket is
    with pytest.raises(StoreUnavailableError, match=r"in another region.*\?region="):
        far_store.put(_PROMPT)
    assert proxy.methods == ["PUT", "HEAD"]


@pytest.mark.parametrize("fault", [answer(200), page(200)], ids=["nothing", "a page"])
def test_a_web_server_that_says_yes_to_everything_is_no_store(
    far_store: ObjectStore, proxy: FaultyProxy, fault: Fault
) -> None:
    proxy.always = fault
    with pytest.raises(StoreUnavailableError):
        far_store.put(_PROMPT)
    with pytest.raises(CorruptObjectError):
        far_store.get(_DIGEST)


@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_web_server_that_says_no_is_no_store(
    far_store: ObjectStore, proxy: FaultyProxy, status: int
) -> None:
    proxy.always = page(status)
    uses = (
        lambda: far_store.put(_PROMPT),
        lambda: far_store.get(_DIGEST),
        lambda: far_store.has(_DIGEST),
    )
    for use in uses:
        with pytest.raises(StoreUnavailableError):
            use()


def test_an_error_of_the_server_is_shown_in_one_short_line(
    far_store: ObjectStore, proxy: FaultyProxy
) -> None:
    proxy.plan(answer(418, "Teapot", "short\nand\nstout " * 1000))
    with pytest.raises(StoreUnavailableError) as caught:
        far_store.put(_PROMPT)
    assert "short and stout" in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


# Many writers


def test_of_racing_writers_one_wins_and_all_succeed(
    far_store: ObjectStore, proxy: FaultyProxy
) -> None:
    writers, prompts = 8, [f"prompt {number}".encode() * 1000 for number in range(6)]
    barrier = Barrier(writers)

    def write(_: int) -> list[Digest]:
        digests = []
        for prompt in prompts:
            barrier.wait()
            digests.append(far_store.put(prompt))
        return digests

    with ThreadPoolExecutor(writers) as pool:
        written = list(pool.map(write, range(writers)))
    assert written == [[Digest.of(prompt) for prompt in prompts]] * writers
    won = Counter(
        path for method, path, status in proxy.answers if (method, status) == ("PUT", 200)
    )
    assert sorted(won.values()) == [1] * len(prompts)
    for prompt in prompts:
        assert far_store.get(Digest.of(prompt)) == prompt


_WRITER = """
import os, sys
from promptreg.digests import Digest
from promptreg.objects import open_store

store = open_store(sys.argv[1])
while True:
    data = os.urandom(300_000)
    print("put", Digest.of(data), flush=True)
    print("done", store.put(data), flush=True)
"""


def test_a_killed_writer_leaves_every_acknowledged_object_whole_and_no_half_one(
    store: ObjectStore, seaweedfs_url: str
) -> None:
    command = [sys.executable, "-c", _WRITER, seaweedfs_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [
            writer.stdout.readline() for _ in range(31)
        ]  # the last says that one is on its way
        writer.kill()
        lines += [line for line in writer.stdout if line.endswith("\n")]
    said = [line.split() for line in lines]
    begun, done = ({digest for word, digest in said if word == what} for what in ("put", "done"))
    assert len(done) >= 15
    for digest in done:
        assert len(store.get(Digest(digest))) == 300_000
    for digest in begun - done:
        with suppress(ObjectNotFoundError):
            assert len(store.get(Digest(digest))) == 300_000
