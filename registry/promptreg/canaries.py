"""Canaries: a few recorded inputs with the outputs that prompt and base gave at the push."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

__all__ = ["Canary", "CanaryOutcome"]

_FORMAT = "promptreg.canary/1"
_MOST_TOLERATED = 0.5
_LARGEST_INDEX = 2**31 - 1
_LARGEST_OUTPUT = 3.4028234663852886e38  # of float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """What prompt and base gave on a few inputs when the prompt was pushed.

    B is the number of inputs, T their length in tokens, N how many outputs of each are kept.

    Attributes:
        input_ids: [B, T] The inputs, as token ids (rows may differ in T).
        positions: [B, N] Which entries of the last position's output are kept: the largest, and some others.
        outputs: [B, N] Their values, float32.
        dtype: The dtype that the base ran in.
        tolerance: How far the outputs may be off: the root of the mean square over all of them, relative to
            their spread about each row's mean; at most 0.5, because a wrong base model is off by about 1.

    Raises:
        ValueError: It could not be replayed, or any base model would pass.
    """

    input_ids: tuple[tuple[int, ...], ...]
    positions: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[float, ...], ...]
    dtype: str
    tolerance: float

    def __post_init__(self) -> None:
        _check_rows(
            "input_ids", self.input_ids, _is_index, f"whole numbers of 0 to {_LARGEST_INDEX}"
        )
        _check_rows(
            "positions", self.positions, _is_index, f"whole numbers of 0 to {_LARGEST_INDEX}"
        )
        _check_rows("outputs", self.outputs, _is_output, "finite float32 numbers")
        rows = {len(self.input_ids), len(self.positions), len(self.outputs)}
        counts = {len(row) for row in (*self.positions, *self.outputs)}
        for what, found in (("rows", rows), ("outputs in each row", counts)):
            if len(found) > 1:
                raise ValueError(
                    f"this canary has different numbers of {what}, {sorted(found)}: they must agree"
                )
        if not isinstance(self.dtype, str) or not self.dtype:
            raise ValueError(f"this canary's dtype is {self.dtype!r}: it must be the name of one")
        if not (_is_number(self.tolerance) and 0 < self.tolerance <= _MOST_TOLERATED):
            raise ValueError(
                f"this canary's tolerance is {self.tolerance!r}: "
                f"it must be above 0 and at most {_MOST_TOLERATED}"
            )

    def to_bytes(self) -> bytes:
        """Return it as canonical JSON, the bytes that are stored as an object."""
        document = {
            "format": _FORMAT,
            "input_ids": self.input_ids,
            "positions": self.positions,
            "outputs": self.outputs,
            "dtype": self.dtype,
            "tolerance": self.tolerance,
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Canary":
        """Read what ``to_bytes`` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            document = json.loads(data)
        except RecursionError as error:
            raise ValueError("this is no canary: it is nested too deeply") from error
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ValueError(f"this is no canary: its format is not {_FORMAT!r}")
        try:
            return cls(
                input_ids=tuple(map(tuple, document["input_ids"])),
                positions=tuple(map(tuple, document["positions"])),
                outputs=tuple(map(tuple, document["outputs"])),
                dtype=document["dtype"],
                tolerance=document["tolerance"],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this canary is incomplete: {error}") from error


def _check_rows(
    name: str, rows: tuple[tuple[object, ...], ...], fits: Callable[[object], bool], wanted: str
) -> None:
    if not rows or not all(rows):
        raise ValueError(f"this canary's {name} have {'an empty row' if rows else 'no rows'}")
    wrong = [value for row in rows for value in row if not fits(value)]
    if wrong:
        raise ValueError(f"this canary's {name} hold {wrong[0]!r:.80}: they must be {wanted}")


def _is_index(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_INDEX


def _is_output(value: object) -> bool:
    # No comparison with nan is true.
    return _is_number(value) and -_LARGEST_OUTPUT <= value <= _LARGEST_OUTPUT


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) in {int, float}


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryOutcome:
    """How the outputs of prompt and base compare with those that were recorded.

    Attributes:
        deviation: How far the worst input's outputs are off, as ``Canary.tolerance`` counts it.
        tolerance: How far they may be off.
        inputs: How many inputs were replayed.
    """

    deviation: float
    tolerance: float
    inputs: int

    @property
    def passed(self) -> bool:
        """Whether all outputs came back."""
        return self.deviation <= self.tolerance

    def __str__(self) -> str:
        return (
            f"the recorded outputs of {self.inputs} inputs {'came' if self.passed else 'did not come'} back "
            f"(off by {self.deviation:.3g}, tolerated {self.tolerance:.3g})"
        )
