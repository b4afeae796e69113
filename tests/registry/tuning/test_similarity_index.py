"""Vectors that prompts are compared by: kept on disk, brought up to date, and never believed when damaged."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prompt_examples import soft_prompt, tuned_prompt
from promptreg.artifacts import dump_tensors
from promptreg.artifacts.arrays import to_array
from promptreg.database import Database
from promptreg.digests import Digest
from promptreg.errors import CorruptObjectError, ObjectNotFoundError, StoreUnavailableError
from promptreg.objects import DirectoryStore
from promptreg.prompts import SoftPrompt
from promptreg.registry import Registry
from promptreg.settings import cache_directory
from promptreg.tuning.similarity_index import SimilarityIndex, bring_up_to_date, summarise
from samples import base_model

BASE = base_model(name="tiny")


class Counting(Registry):
    """A registry that notes which objects are read."""

    def __init__(self, folder: Path, *, without: Digest | None = None) -> None:
        database = Database.open(str(folder / "promptreg.db"), upgrade=True)
        super().__init__(database, DirectoryStore(folder / "objects"))
        self.fetched: list[Digest] = []
        self._without = without

    def read_object(self, digest: Digest) -> bytes:
        if digest == self._without:
            raise StoreUnavailableError("the store", "it went away", "try again")
        self.fetched.append(digest)
        return super().read_object(digest)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Counting]:
    with Counting(tmp_path) as opened:
        yield opened


def push(registry: Registry, prompt: SoftPrompt, task: str = "sst2") -> Digest:
    registry.push(prompt, task=task, base=BASE)
    return Digest.of(dump_tensors(prompt.tensors))


def kept() -> Path:
    (file,) = (cache_directory() / "similarity-1").glob("*.safetensors")
    return file


def path_of(tmp_path: Path, digest: Digest) -> Path:
    return tmp_path / "objects" / digest.key


def test_a_prompt_comes_to_its_mean_token_and_its_mean_unit_token() -> None:
    rows = np.array([[3.0, 0.0], [0.0, 1.0]])
    assert summarise(rows).tolist() == [[1.5, 0.5], [0.5, 0.5]]


def test_a_token_of_zeros_points_nowhere() -> None:
    assert summarise(np.array([[0.0, 0.0], [0.0, 2.0]])).tolist() == [[0, 1], [0, 0.5]]


def test_both_kinds_are_kept_apart(registry: Counting) -> None:
    plain, tuned = soft_prompt(3, seed=1), tuned_prompt(5, seed=2)
    digests = [push(registry, plain), push(registry, tuned)]
    index, unreadable = bring_up_to_date(registry, BASE, digests)
    assert unreadable == {}
    rows = index.rows()
    for prompt, digest in zip((plain, tuned), digests, strict=True):
        expected = summarise(to_array(prompt.tensors["prompt_embeddings"]))
        assert np.array_equal(index.prompts[rows[digest.hex]], expected)
    assert index.embedded[rows[digests[0].hex]] == -1
    early = index.embeddings[index.embedded[rows[digests[1].hex]]]
    assert np.array_equal(early, summarise(to_array(tuned.tensors["task_embedding"])))


def test_only_what_is_new_is_fetched(registry: Counting) -> None:
    first = push(registry, tuned_prompt(seed=1))
    steps: list[tuple[int, int]] = []
    bring_up_to_date(registry, BASE, [first], progress=lambda *step: steps.append(step))
    second = push(registry, soft_prompt(seed=2))
    third = push(registry, tuned_prompt(seed=3))
    registry.fetched.clear()
    index, _ = bring_up_to_date(
        registry, BASE, [third, first, second], progress=lambda *step: steps.append(step)
    )
    assert set(registry.fetched) == {second, third}
    assert steps == [(1, 1), (1, 2), (2, 2)]
    assert set(index.rows()) == {first.hex, second.hex, third.hex}
    assert len(index.embeddings) == 2
    registry.fetched.clear()
    again, _ = bring_up_to_date(registry, BASE, [first, second, third])
    assert registry.fetched == []
    for name in ("digests", "prompts", "embeddings", "embedded"):
        assert np.array_equal(getattr(again, name), getattr(index, name))


def test_the_same_object_twice_is_one_row(registry: Counting) -> None:
    digest = push(registry, soft_prompt())
    index, _ = bring_up_to_date(registry, BASE, [digest, digest])
    assert len(index.digests) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "foreign", "empty"])
def test_a_damaged_index_is_made_again(
    registry: Counting, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    digest = push(registry, tuned_prompt())
    sound, _ = bring_up_to_date(registry, BASE, [digest])
    data = bytearray(kept().read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    elif damage == "cut":
        del data[len(data) // 2 :]
    else:
        data = bytearray(b"no index" if damage == "foreign" else b"")
    kept().write_bytes(data)
    registry.fetched.clear()
    index, _ = bring_up_to_date(registry, BASE, [digest])
    assert registry.fetched == [digest]
    assert np.array_equal(index.prompts, sound.prompts)
    assert "made again" in caplog.text
    registry.fetched.clear()
    bring_up_to_date(registry, BASE, [digest])
    assert registry.fetched == [], "it was mended on disk too"


def test_every_flipped_bit_of_the_index_is_seen(registry: Counting) -> None:
    digest = push(registry, soft_prompt(2))
    bring_up_to_date(registry, BASE, [digest])
    sound = kept().read_bytes()
    for at in range(8, len(sound), 7):
        data = bytearray(sound)
        data[at] ^= 4
        kept().write_bytes(data)
        registry.fetched.clear()
        index, _ = bring_up_to_date(registry, BASE, [digest])
        assert registry.fetched == [digest], f"byte {at}"
        assert list(index.rows()) == [digest.hex]


def test_wrong_bytes_in_the_store_are_named_and_never_indexed(
    registry: Counting, tmp_path: Path
) -> None:
    good, bad, gone = (push(registry, soft_prompt(seed=seed)) for seed in (1, 2, 3))
    registry.flush()
    path_of(tmp_path, bad).write_bytes(dump_tensors(soft_prompt(seed=9).tensors))
    path_of(tmp_path, gone).unlink()
    for _ in range(2):
        index, unreadable = bring_up_to_date(registry, BASE, [good, bad, gone])
        assert isinstance(unreadable[bad], CorruptObjectError)
        assert isinstance(unreadable[gone], ObjectNotFoundError)
        assert list(index.rows()) == [good.hex]


def test_an_object_that_is_no_prompt_of_the_base_is_left_out(registry: Counting) -> None:
    wide = registry._objects.put(dump_tensors(soft_prompt(2, 16).tensors))
    other = registry._objects.put(dump_tensors({"x": soft_prompt(2).tensors["prompt_embeddings"]}))
    _, unreadable = bring_up_to_date(registry, BASE, [wide, other])
    assert [str(unreadable[each]).split(": ")[1] for each in (wide, other)] == [
        "it is no prompt [tokens, 8]; push it again"
    ] * 2


def test_what_was_fetched_before_the_store_failed_is_kept(
    registry: Counting, tmp_path: Path
) -> None:
    digests = [push(registry, soft_prompt(seed=seed)) for seed in range(40)]
    with (
        Counting(tmp_path, without=digests[-1]) as failing,
        pytest.raises(StoreUnavailableError),
    ):
        bring_up_to_date(failing, BASE, digests)
    registry.fetched.clear()
    bring_up_to_date(registry, BASE, digests)
    assert registry.fetched == [digests[-1]]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_done_without(
    registry: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    digest = push(registry, soft_prompt())
    cache_directory().mkdir(mode=0o500)
    index, _ = bring_up_to_date(registry, BASE, [digest])
    assert len(index.digests) == 1
    assert "cannot be kept" in caplog.text


def test_a_cache_that_is_a_file_is_done_without(
    registry: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    digest = push(registry, soft_prompt())
    cache_directory().write_text("in the way")
    index, _ = bring_up_to_date(registry, BASE, [digest])
    assert len(index.digests) == 1
    assert "cannot be kept" in caplog.text


def test_an_index_of_nothing_is_written_and_read(registry: Counting) -> None:
    index, unreadable = bring_up_to_date(registry, BASE, [])
    assert (len(index.digests), unreadable) == (0, {})
    assert SimilarityIndex.empty(8).rows() == {}
