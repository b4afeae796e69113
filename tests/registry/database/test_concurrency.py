"""Several processes, or threads, on one database: nothing is lost, numbered twice or left out."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from promptreg.database import Database
from promptreg.database.schema import HEAD
from version_examples import add_bases, new_version, push, resolve

TESTS = Path(__file__).parents[2]
PROCESSES = 3

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a pushing process and returns it when it is ready to be let go."""
    started: list[subprocess.Popen[str]] = []

    def start_(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, TESTS / "pushing_process.py", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        started.append(process)
        return process

    yield start_
    for process in started:
        process.kill()
        process.communicate()


def _let_go(processes: "list[subprocess.Popen[str]]") -> list[list[str]]:
    """Let all go at once; return the lines that each wrote."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, ends, strict=True):
        assert process.returncode == 0, errors
    return [output.splitlines() for output, _ in ends]


def test_processes_that_push_at_once_get_numbers_without_gaps(
    upgraded_url: str, start: Start, open_database: Callable[[str], Database]
) -> None:
    each = 10
    outputs = _let_go(
        [
            start(upgraded_url, "--alias", "prod", "--contents", *(f"{p} {i}" for i in range(each)))
            for p in range(PROCESSES)
        ]
    )
    lines = [line for output in outputs for line in output]
    numbers = range(1, PROCESSES * each + 1)
    assert sorted(lines) == sorted(f"sst2@{number} True" for number in numbers)
    database = open_database(upgraded_url)
    listed = {version.version for version in database.page(limit=1000).versions}
    assert listed == set(numbers)
    assert resolve(database, "sst2@prod").version == PROCESSES * each, "the last one moved it last"


def test_processes_that_push_the_same_bytes_at_once_get_one_version(
    upgraded_url: str, start: Start, open_database: Callable[[str], Database]
) -> None:
    contents = ["same", "bytes", "same", "again"]
    outputs = _let_go([start(upgraded_url, "--contents", *contents) for _ in range(PROCESSES)])
    lines = [line for output in outputs for line in output]
    assert sorted(line for line in lines if line.endswith("True")) == [
        "sst2@1 True",
        "sst2@2 True",
        "sst2@3 True",
    ]
    assert len(lines) == PROCESSES * len(contents)
    assert push(open_database(upgraded_url), "next").version == 4, "no number was lost"


def test_processes_that_first_open_the_same_file_at_once_all_find_it_made(
    sqlite_url: str, start: Start
) -> None:
    outputs = _let_go(
        [start(sqlite_url, "--make", "--contents", str(index)) for index in range(PROCESSES)]
    )
    assert sorted(output[0] for output in outputs) == [
        f"sst2@{number} True" for number in range(1, PROCESSES + 1)
    ]


def test_of_several_that_upgrade_at_once_exactly_one_does_it(empty_url: str, start: Start) -> None:
    outputs = _let_go([start(empty_url, "--upgrade") for _ in range(PROCESSES)])
    already = f"{HEAD} {HEAD}"
    assert sorted(output[0] for output in outputs) == [already] * (PROCESSES - 1) + [f"None {HEAD}"]


def test_a_process_that_is_killed_leaves_whole_versions_and_no_gap(
    upgraded_url: str, start: Start, open_database: Callable[[str], Database]
) -> None:
    process = start(upgraded_url, "--forever", "--contents", "x")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    said = [process.stdout.readline() for _ in range(21)]
    process.kill()
    # communicate() would pass over what readline has read ahead.
    said += process.stdout.readlines()
    process.wait()
    database = open_database(upgraded_url)
    versions = database.page(limit=1000).versions
    # It may have been killed after a commit and before it could say so.
    assert len(versions) - (len(said) - 1) in {0, 1}
    assert [version.version for version in reversed(versions)] == list(range(1, len(versions) + 1))
    assert push(database, "next").version == len(versions) + 1


def test_threads_share_a_database(
    upgraded_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_url)
    add_bases(database)
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda index: push(database, str(index)).version, range(40)))
    assert sorted(versions) == list(range(1, 41))


def test_threads_that_register_the_same_base_models_at_once_register_each_once(
    upgraded_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_url)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: add_bases(database), range(8)))
    assert sorted(str(base.name) for base in database.bases()) == ["gemma", "llama"]
    assert len(database.events()) == 2


def test_aliases_that_move_at_once_end_at_one_version(
    upgraded_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_url)
    add_bases(database)
    versions = [push(database, str(index)) for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        before = list(pool.map(lambda each: database.set_alias(each, "prod", by="ada"), versions))
    last = resolve(database, "sst2@prod")
    passed = sorted(each.version for each in before if each is not None)
    assert sorted([*passed, last.version]) == list(range(1, 9)), "each moved it from another one"


_FORKING = """
import os, sys
from promptreg.database import Database
from version_examples import new_version, add_bases
database = Database.open(sys.argv[1])
add_bases(database)
child = os.fork()
for index in range(10):
    database.register(new_version(f"{child == 0} {index}"))
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(database.page().versions[0].ref)
"""


def test_a_forked_child_has_connections_of_its_own(upgraded_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKING, upgraded_url],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=False,
    )
    assert (done.stdout, done.stderr) == ("sst2@20\n", "")


def test_a_reader_sees_a_push_whole_or_not_at_all(
    upgraded_url: str, open_database: Callable[[str], Database]
) -> None:
    database = open_database(upgraded_url)
    add_bases(database)
    count = 30

    def write() -> None:
        for index in range(count):
            new = new_version(
                str(index), hyperparameters={"lr": index}, metrics={"a": index}, aliases=("prod",)
            )
            database.register(new)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not writing.done():
            for version in database.page(limit=5).versions:
                number = version.version - 1
                assert version.hyperparameters == {"lr": number}
                assert version.metrics == {"a": number}
        writing.result()
    assert len(database.page(limit=1000).versions) == count
