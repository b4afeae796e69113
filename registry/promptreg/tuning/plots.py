"""Plots as inline SVG: no network, no script, colours that the page defines for light, dark and paper.

The text stays text, in the page's own font. Colours are drawn as placeholders that become CSS variables: one
picture serves a light page and a dark one.
"""

import re
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from promptreg.tuning.comparisons import Comparison, Point, Series
from promptreg.tuning.runs import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SERIES", "draw"]

SERIES = 6
"""So many series have a colour of their own: ``--series-0`` to ``--series-5``."""

# Inches: 353 units of the picture, about a phone's width, so that text stays legible there.
_WIDTH = 4.9
_HEIGHT = 2.8
_ROW = 0.36
_WRAP = 26
_MOST_TICKS = 8
_INK, _LINES = "#010203", "#010204"
_COLOURS = [f"#0102{0x10 + number:02x}" for number in range(SERIES)]
_VARIABLES = {_INK: "--ink", _LINES: "--rule"} | {
    colour: f"--series-{number}" for number, colour in enumerate(_COLOURS)
}
_MARKS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINES,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _LINES,
    "grid.linewidth": 0.6,
    "xtick.color": _LINES,
    "ytick.color": _LINES,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
}
# matplotlib's settings are one for the process, so one thread draws at a time.
_DRAWING = threading.Lock()


def draw(comparison: Comparison) -> Markup:
    """Return the plot as an ``<svg>`` element; the same comparison gives the same characters.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    drawer = _DRAWERS[comparison.form]
    with _drawing(salt=comparison.key):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH, _height(comparison)), layout="constrained")
        drawer(figure.add_subplot(), comparison)
        _add_legend(figure, comparison)
        file = StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return _inline(file.getvalue(), comparison.title)


@contextmanager
def _drawing(*, salt: str) -> Iterator[None]:
    import matplotlib as mpl

    # From the defaults, or a person's own matplotlibrc would change the page.
    settings: dict[Any, Any] = {
        name: value for name, value in mpl.rcParamsDefault.items() if not name.startswith("backend")
    }
    settings |= _SETTINGS | {"svg.hashsalt": salt}
    with _DRAWING, mpl.rc_context(settings), warnings.catch_warnings():
        # Letters that matplotlib's own font lacks: the page's font draws them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def _draw_lines(axes: "Axes", comparison: Comparison) -> None:
    for number, series in enumerate(comparison.series):
        across = [float(point.at) for point in series.points]
        axes.plot(
            across,
            [point.mean.value for point in series.points],
            marker=_MARKS[number],
            linestyle=_DASHES[number],
            markersize=5,
            color=_COLOURS[number],
            label=_printable(series.label),
        )
        for at, point in zip(across, series.points, strict=True):
            low, high = _ends(point)
            axes.vlines(at, low, high, color=_COLOURS[number], alpha=0.5, linewidth=1)
            _seeds(axes, [at] * len(point.scores), _values(point), number)
    if comparison.log:
        axes.set_xscale("log")
        _tick_at(axes, sorted({float(p.at) for each in comparison.series for p in each.points}))
    _finish(axes, across=comparison.across, up=comparison.score)


def _draw_curves(axes: "Axes", comparison: Comparison) -> None:
    for number, series in enumerate(comparison.series):
        steps = [float(point.at) for point in series.points]
        values = [_values(point) for point in series.points]
        colour = _COLOURS[number]
        axes.plot(
            steps,
            [point.mean.value for point in series.points],
            color=colour,
            linestyle=_DASHES[number],
            label=_printable(series.label),
        )
        axes.fill_between(
            steps, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15,
            linewidth=0,
        )  # fmt: skip
    _finish(axes, across=comparison.across, up=comparison.score)


def _draw_dots(axes: "Axes", comparison: Comparison) -> None:
    rows = _rows(comparison)
    spread = 0.6 / len(comparison.series)
    for number, series in enumerate(comparison.series):
        shift = (number - (len(comparison.series) - 1) / 2) * spread
        for place, point in enumerate(series.points):
            up = rows.index(str(point.at)) + shift
            label = _printable(series.label) if place == 0 else None
            colour = _COLOURS[number]
            low, high = _ends(point)
            axes.hlines(up, low, high, color=colour, alpha=0.5, linewidth=1)
            axes.plot([point.mean.value], [up], marker=_MARKS[number], linestyle="none", color=colour,
                      label=label)  # fmt: skip
            _seeds(axes, _values(point), [up] * len(point.scores), number)
    _name_rows(axes, rows)
    _finish(axes, across=comparison.score, up="")


def _draw_bars(axes: "Axes", comparison: Comparison) -> None:
    rows = _rows(comparison)
    (series,) = comparison.series
    reach = max(_ends(point)[1] for point in series.points)
    for up, point in enumerate(series.points):
        value = point.mean.value
        low, high = _ends(point)
        axes.barh(up, value, height=0.62, color=_COLOURS[0], alpha=0.35)
        axes.hlines(up, low, high, color=_INK, linewidth=1.2)
        _seeds(axes, _values(point), [up] * len(point.scores), 0)
        axes.annotate(shown(value), (max(high, value), up), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    axes.set_xlim(min(0.0, *(_ends(point)[0] for point in series.points)), reach * 1.14 or 1.0)
    if reach <= 1:
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
        axes.set_xlim(0, 1.14)
    _name_rows(axes, rows)
    _finish(axes, across=comparison.score, up="")


_DRAWERS: dict[str, Callable[["Axes", Comparison], None]] = {
    "bars": _draw_bars,
    "curves": _draw_curves,
    "dots": _draw_dots,
    "lines": _draw_lines,
}


def _height(comparison: Comparison) -> float:
    """Return the height of a plot in inches: what has rows grows with them, and with the series in each."""
    legend = 0.0
    if any(series.label for series in comparison.series):
        legend = 0.18 * -(-len(comparison.series) // _columns(comparison.series))
    if comparison.form in {"curves", "lines"}:
        return _HEIGHT + legend
    row = _ROW * max(1.0, 0.5 * len(comparison.series))
    return 0.7 + row * max(len(_rows(comparison)), 2) + legend


def _rows(comparison: Comparison) -> list[str]:
    """Return the names of the rows, each once, in the order in which they first come."""
    return [*dict.fromkeys(str(p.at) for each in comparison.series for p in each.points)]


def _name_rows(axes: "Axes", rows: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), [_wrap(row) for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)  # the first row on top
    axes.tick_params(axis="y", length=0)


def _seeds(axes: "Axes", across: Sequence[float], up: Sequence[float], number: int) -> None:
    if len(across) > 1:
        axes.plot(across, up, marker="o", markersize=2.6, linestyle="none", alpha=0.75,
                  color=_COLOURS[number], markerfacecolor="none", markeredgewidth=0.8)  # fmt: skip


def _finish(axes: "Axes", *, across: str, up: str) -> None:
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(axis="y" if up else "x")
    if not up:
        axes.spines["left"].set_visible(False)


def _tick_at(axes: "Axes", places: Sequence[float]) -> None:
    """Put the ticks of a logarithmic axis where the runs are, if those are few."""
    from matplotlib.ticker import NullFormatter, NullLocator

    if len(places) <= _MOST_TICKS:
        axes.set_xticks(places, [_amount(place) for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _add_legend(figure: "Figure", comparison: Comparison) -> None:
    if any(series.label for series in comparison.series):
        columns = _columns(comparison.series)
        figure.legend(loc="outside lower left", ncols=columns, handlelength=2.4)


def _columns(series: Sequence[Series]) -> int:
    return 2 if max(len(each.label) for each in series) < _WRAP else 1


def _values(point: Point) -> list[float]:
    return [score.value for score in point.scores]


def _ends(point: Point) -> tuple[float, float]:
    """Return the ends of the interval around a mean; the mean itself where none was recorded."""
    mean = point.mean
    return (
        mean.value if mean.low is None else mean.low,
        mean.value if mean.high is None else mean.high,
    )


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(_printable(text), _WRAP, max_lines=2, placeholder=" …"))


def _printable(text: str) -> str:
    """Return ``text`` without what XML cannot hold."""
    return "".join(each if each.isprintable() else " " for each in text)


def _amount(number: float) -> str:
    """Return a number as a person reads it on an axis: ``20``, ``270M``, ``11B``."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{number:g}"


def _inline(svg: str, title: str) -> Markup:
    """Return what matplotlib wrote as an element of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # A page knows these names itself, and holds several pictures: their groups need no names.
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    size = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg {size.group() if size else ""} role="img" aria-label="{escape(title)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return Markup(svg)  # noqa: S704, matplotlib has escaped the texts
