"""What was checked when a prompt was attached, and how it came out. Pure values: nothing here needs torch."""

from dataclasses import dataclass
from enum import StrEnum

from promptreg.canaries import CanaryOutcome
from promptreg.fingerprints import Verdict

__all__ = ["AttachReport", "Policy"]


class Policy(StrEnum):
    """What a base model must prove before a prompt is attached to it."""

    EXACT = "exact"
    """That all its weights are those that the prompt was trained on."""
    SAME_EMBEDDING = "same-embedding"
    """That its embedding is; the rest may have been fine-tuned."""
    SAME_SHAPE = "same-shape"
    """That its tensors have the same names and shapes, with any weights."""
    CANARY = "canary"
    """That it gives the outputs recorded at the push: the way in for a quantised base model."""
    UNCHECKED = "unchecked"
    """Nothing but its shape: for a soft prompt that names no base model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachReport:
    """What was checked when a prompt was attached, and how it came out.

    Attributes:
        reference: What names the prompt, such as ``sst2@3``; None for one that is not registered.
        expected: The base model that it was trained on; None if it names none.
        actual: The base model at hand; None if its fingerprint was not taken.
        verdict: How the two compare; None if they were not compared.
        policy: What was asked for.
        headless: That only one of the two has a head, so that the rest was compared.
        compared: How many tensors were compared.
        conversions: What was converted to fit the model's dtype and device, a phrase each.
        canary: How the recorded outputs compare; None if they were not replayed.
        notes: What weights do not show, but may change outputs, a phrase each: forward hooks, say.
        seconds: How long attaching took.
    """

    reference: str | None = None
    expected: str | None = None
    actual: str | None = None
    verdict: Verdict | None = None
    policy: Policy
    headless: bool = False
    compared: int = 0
    conversions: tuple[str, ...] = ()
    canary: CanaryOutcome | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        checks = [self._verdict()]
        if self.canary is not None:
            checks.append(str(self.canary))
        if self.conversions:
            checks.append(f"the prompt was converted: {', '.join(self.conversions)}")
        if self.notes:
            checks.append(f"note: {', '.join(self.notes)}")
        return (
            f"attached {self.reference or 'an unregistered prompt'} in {1000 * self.seconds:.1f} ms "
            f"(policy {self.policy}): {'; '.join(checks)}"
        )

    def _verdict(self) -> str:
        if self.verdict is None:
            return "the base model's weights were not checked"
        if self.verdict is Verdict.EXACT:
            text = f"the base model is {self.expected}, {self.compared} tensors compared"
        else:
            text = (
                f"the base model is {self.actual}, and the prompt was trained on {self.expected} "
                f"({self.verdict}, {self.compared} tensors compared)"
            )
        return text + (", its head apart" if self.headless else "")
