"""Medians of interleaved runs, and the table that shows them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Row", "medians", "print_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was done.
        ours: Our median, seconds.
        peer: Who it stands beside.
        theirs: Their median, seconds; None where the bound is a number of its own.
        wanted: What was to be reached: of ``ratio`` (ours / theirs), or seconds if there is no peer.
        least: Whether ``wanted`` is a floor of theirs / ours instead of a ceiling of ours / theirs.
    """

    what: str
    ours: float
    peer: str
    theirs: float | None
    wanted: float
    least: bool = False

    @property
    def measured(self) -> float:
        """The figure that is held against ``wanted``."""
        if self.theirs is None:
            return self.ours
        return self.theirs / self.ours if self.least else self.ours / self.theirs

    @property
    def reached(self) -> bool:
        """Whether the figure is as good as wanted."""
        return self.measured >= self.wanted if self.least else self.measured <= self.wanted


def medians(steps: Mapping[str, Callable[[], object]], *, repeat: int) -> dict[str, float]:
    """Return each step's median time in seconds.

    The steps take turns, so that whatever else the machine does meets all of them alike; the first turn
    warms up and is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeat + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}


def print_rows(title: str, measured: list[Row]) -> None:
    """Print the table of one benchmark."""
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for header in ("", "ours", "peer", "theirs", "figure", "wanted", ""):
        grid.add_column(header, justify="right" if header in {"ours", "theirs"} else "left")
    for row in measured:
        if row.theirs is None:
            figure, wanted = _seconds(row.measured), f"<= {_seconds(row.wanted)}"
        else:
            figure = f"{row.measured:.2f} x"
            wanted = f"{'>=' if row.least else '<='} {row.wanted:g} x"
        theirs = "" if row.theirs is None else _seconds(row.theirs)
        verdict = "reached" if row.reached else "MISSED"
        grid.add_row(row.what, _seconds(row.ours), row.peer, theirs, figure, wanted, verdict)
    Console(width=150).print(grid)
    print()


def _seconds(value: float) -> str:
    return f"{value * 1000:.2f} ms" if value < 1 else f"{value:.2f} s"
