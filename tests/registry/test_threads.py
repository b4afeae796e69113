import multiprocessing
import threading
import warnings
from collections.abc import Iterator

import pytest

from promptreg.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


def test_results_come_in_the_order_of_the_things(threads: Threads) -> None:
    assert list(threads.at_once(lambda number: number**2, range(20))) == [n**2 for n in range(20)]


def test_things_wait_side_by_side(threads: Threads) -> None:
    together = threading.Barrier(3)
    assert len(threads.at_once(lambda _: together.wait(60), range(3))) == 3


@pytest.mark.parametrize("wrong", [0, 2])
def test_one_that_fails_lets_the_others_end_first(threads: Threads, wrong: int) -> None:
    done = []

    def step(number: int) -> None:
        if number == wrong:
            raise ValueError(number)
        done.append(number)

    with pytest.raises(ValueError, match=str(wrong)):
        threads.at_once(step, range(4))
    assert sorted(done) == [number for number in range(4) if number != wrong]


def test_what_was_left_for_later_is_done_when_flush_returns(threads: Threads) -> None:
    flushing = threading.Event()
    done: list[int] = []

    def step(number: int) -> None:
        flushing.wait(60)
        done.append(number)

    for number in range(10):
        threads.later(step, number)
    assert done == []
    flushing.set()
    threads.flush()
    assert sorted(done) == list(range(10))


def test_closing_flushes(threads: Threads) -> None:
    done: list[int] = []
    threads.later(done.append, 1)
    threads.close()
    assert done == [1]


def test_nothing_is_started_before_it_is_needed(threads: Threads) -> None:
    before = threading.active_count()
    threads.flush()
    threads.close()
    assert threading.active_count() == before


def test_a_forked_child_has_its_own_and_waits_for_none_of_its_parent_s(threads: Threads) -> None:
    parent = threading.Event()

    def wait() -> None:
        parent.wait(60)

    threads.later(wait)

    def child() -> None:
        threads.flush()
        assert threads.submit(lambda: 7).result() == 7
        threads.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is the point
        process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
        process.start()
    process.join(30)
    parent.set()
    assert process.exitcode == 0
