import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prompt_examples import soft_prompt
from promptreg import artifacts
from promptreg.artifacts import FORMATS
from promptreg.artifacts.placing import _fill
from promptreg.errors import ConversionError, DestinationError, PromptregError, StoreFullError

DIRECTORIES = [name for name in FORMATS if name != "npy"]
PROMPT = soft_prompt(100, 64)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file of this process grow past ``size`` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("format_name", FORMATS)
class TestEveryFormat:
    def test_writes_to_a_new_place_and_leaves_nothing_beside_it(
        self, tmp_path: Path, format_name: str
    ) -> None:
        artifacts.write(PROMPT, tmp_path / "p", format_name)
        assert [path.name for path in tmp_path.iterdir()] == ["p"]

    def test_refuses_to_write_over_a_file(self, tmp_path: Path, format_name: str) -> None:
        (tmp_path / "p").write_text("mine")
        with pytest.raises(DestinationError, match="name a destination that does not exist yet"):
            artifacts.write(PROMPT, tmp_path / "p", format_name)
        assert (tmp_path / "p").read_text() == "mine"
        assert [path.name for path in tmp_path.iterdir()] == ["p"]

    def test_refuses_to_write_into_a_directory_that_holds_something(
        self, tmp_path: Path, format_name: str
    ) -> None:
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "mine").write_text("mine")
        with pytest.raises(DestinationError, match="name a destination that does not exist yet"):
            artifacts.write(PROMPT, tmp_path / "p", format_name)
        assert [path.name for path in (tmp_path / "p").iterdir()] == ["mine"]

    def test_refuses_a_link_that_leads_nowhere(self, tmp_path: Path, format_name: str) -> None:
        (tmp_path / "p").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DestinationError):
            artifacts.write(PROMPT, tmp_path / "p", format_name)
        assert not (tmp_path / "elsewhere").exists()

    @pytest.mark.parametrize("room", [0, 100, 20_000])
    def test_leaves_nothing_behind_on_a_full_disk(
        self, tmp_path: Path, format_name: str, room: int
    ) -> None:
        with room_for(room), pytest.raises(StoreFullError, match="nothing half written"):
            artifacts.write(PROMPT, tmp_path / "p", format_name)
        assert not list(tmp_path.iterdir())

    def test_names_a_directory_that_is_missing(self, tmp_path: Path, format_name: str) -> None:
        with pytest.raises(DestinationError, match=f"make the directory {tmp_path}/a first"):
            artifacts.write(PROMPT, tmp_path / "a" / "p", format_name)

    def test_refuses_a_path_that_no_file_can_have(self, tmp_path: Path, format_name: str) -> None:
        for name in ("a\0b", "x" * 5000):
            with pytest.raises(DestinationError, match="you can write to"):
                artifacts.write(PROMPT, tmp_path / name, format_name)
        assert not list(tmp_path.iterdir())

    def test_refuses_a_parent_that_is_a_file(self, tmp_path: Path, format_name: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DestinationError):
            artifacts.write(PROMPT, tmp_path / "file" / "p", format_name)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_refuses_a_place_that_may_not_be_written(
        self, tmp_path: Path, format_name: str
    ) -> None:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(DestinationError, match="Permission denied"):
            artifacts.write(PROMPT, tmp_path / "closed" / "p", format_name)

    def test_follows_the_umask(self, tmp_path: Path, format_name: str) -> None:
        before = os.umask(0o027)
        try:
            artifacts.write(PROMPT, tmp_path / "p", format_name)
        finally:
            os.umask(before)
        assert (tmp_path / "p").stat().st_mode & 0o027 == 0
        assert (tmp_path / "p").stat().st_mode & 0o640 == 0o640


@pytest.mark.parametrize("format_name", DIRECTORIES)
def test_an_empty_destination_stays_empty_on_a_full_disk(tmp_path: Path, format_name: str) -> None:
    with room_for(20_000), pytest.raises(StoreFullError):
        artifacts.write(PROMPT, tmp_path, format_name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format_name", DIRECTORIES)
def test_an_empty_directory_is_filled_and_stays_the_same_one(
    tmp_path: Path, format_name: str
) -> None:
    destination = tmp_path / "p"
    destination.mkdir()
    before = destination.stat().st_ino
    artifacts.write(PROMPT, destination, format_name)
    assert destination.stat().st_ino == before
    artifacts.write(PROMPT, tmp_path / "new", format_name)
    assert contents(destination) == contents(tmp_path / "new")


def test_a_link_to_an_empty_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    artifacts.write(PROMPT, tmp_path / "link")
    assert artifacts.read(tmp_path / "real").tensors == PROMPT.tensors


@pytest.mark.parametrize("exists", [False, True])
def test_of_many_who_write_to_one_place_one_wins_whole(tmp_path: Path, exists: bool) -> None:
    destination = tmp_path / "p"
    if exists:
        destination.mkdir()
    prompts = [soft_prompt(4, 8, seed=seed) for seed in range(8)]
    barrier = threading.Barrier(len(prompts))
    outcomes: list[int | PromptregError] = []

    def write(number: int) -> None:
        barrier.wait()
        try:
            artifacts.write(prompts[number], destination)
            outcomes.append(number)
        except DestinationError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert len(winners) == 1
    assert artifacts.read(destination).tensors == prompts[winners[0]].tensors
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_writer_that_is_killed_leaves_nothing_that_reads_as_a_prompt(tmp_path: Path) -> None:
    # Killed in the middle of the second file, as by a machine that runs out of memory.
    script = """
import os, signal, sys
from pathlib import Path
from promptreg.artifacts.placing import place_directory

class Deadly(dict):
    def items(self):
        yield "adapter_model.safetensors", b"x" * 1000
        os.kill(os.getpid(), signal.SIGKILL)

place_directory(Path(sys.argv[1]), Deadly())
"""
    destination = tmp_path / "p"
    process = subprocess.run([sys.executable, "-c", script, str(destination)], check=False)
    assert process.returncode == -signal.SIGKILL
    assert not destination.exists()


def test_what_cannot_be_converted_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConversionError):
        artifacts.write_table({}, tmp_path / "p")
    assert not list(tmp_path.iterdir())


def test_a_directory_that_was_filled_since_it_was_looked_at_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    with pytest.raises(DestinationError, match="somebody else"):
        _fill(tmp_path, {"ours": b"ours"})
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}
