"""Canaries: a few recorded inputs with the outputs that prompt and base gave at the push."""

import json
from dataclasses import dataclass

__all__ = ["Canary", "CanaryOutcome"]

_FORMAT = "promptreg.canary/1"


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
            their spread about each row's mean.
    """

    input_ids: tuple[tuple[int, ...], ...]
    positions: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[float, ...], ...]
    dtype: str
    tolerance: float

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
        document = json.loads(data)
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ValueError(f"this is no canary: its format is not {_FORMAT!r}")
        try:
            return cls(
                input_ids=tuple(tuple(map(int, row)) for row in document["input_ids"]),
                positions=tuple(tuple(map(int, row)) for row in document["positions"]),
                outputs=tuple(tuple(map(float, row)) for row in document["outputs"]),
                dtype=str(document["dtype"]),
                tolerance=float(document["tolerance"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this canary is incomplete: {error}") from error


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
