"""Proving that a prompt and the base model at hand belong together, before the prompt is attached."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from promptreg.canaries import CanaryOutcome
from promptreg.ensembles import members_of
from promptreg.errors import (
    AttachError,
    CanaryError,
    ConfigurationError,
    IncompatibleModelError,
)
from promptreg.fingerprints import Comparison, Verdict, compare
from promptreg.models.anatomy import Anatomy
from promptreg.models.canonical import Naming
from promptreg.models.noticing import notice
from promptreg.models.reports import AttachReport, Policy
from promptreg.models.virtual import (
    VirtualTokens,
    check_fit,
    load_virtual_tokens,
    own_parameters,
)
from promptreg.prompts import Method, PulledPrompt, SoftPrompt

if TYPE_CHECKING:
    from promptreg.bases import BaseModel

__all__ = ["prove", "read_policy"]

_SHOWN = 5
_VERDICTS = list(Verdict)
_ACCEPTED = {
    Policy.EXACT: Verdict.EXACT,
    Policy.SAME_EMBEDDING: Verdict.SAME_EMBEDDING,
    Policy.SAME_SHAPE: Verdict.SAME_SHAPE,
}


def prove(
    anatomy: Anatomy,
    prompt: PulledPrompt | SoftPrompt,
    *,
    policy: Policy,
    task_id: int | None,
    at_hand: "Callable[[], BaseModel]",
) -> tuple[tuple[VirtualTokens, ...], AttachReport]:
    """Check that a prompt belongs to a base model.

    Args:
        anatomy: The base model.
        prompt: The prompt.
        policy: What the base model must prove.
        task_id: Which task of a multitask prompt.
        at_hand: Gives the base model's fingerprint, if it is needed.

    Returns:
        The virtual tokens (those of each member, for an ensemble), and what was checked.

    Raises:
        IncompatibleModelError, CanaryError, AttachError: As ``attach`` says.
    """
    started = time.perf_counter()
    if not isinstance(prompt, PulledPrompt | SoftPrompt):
        raise _no_prompt(prompt)
    soft = prompt if isinstance(prompt, SoftPrompt) else prompt.prompt
    pulled = _choose_pulled(prompt, policy)
    members = members_of(soft) if soft.method is Method.ENSEMBLE else (soft,)
    for member in members:
        check_fit(member, anatomy)
    report = AttachReport(
        reference=pulled.version.ref if pulled else None,
        expected=str(pulled.base) if pulled else None,
        policy=policy,
        notes=notice(anatomy),
    )
    if pulled is not None and policy in _ACCEPTED:
        report = _check_base(pulled, members, at_hand(), anatomy, report)
    tokens = tuple(load_virtual_tokens(member, anatomy, task_id=task_id) for member in members)
    if pulled is not None and policy is Policy.CANARY:
        report = replace(report, canary=_replay(anatomy, pulled))
    conversions = tuple(dict.fromkeys(phrase for each in tokens for phrase in each.conversions))
    seconds = time.perf_counter() - started
    return tokens, replace(report, conversions=conversions, seconds=seconds)


def _replay(anatomy: Anatomy, pulled: PulledPrompt) -> CanaryOutcome:
    """Replay the recorded outputs; return what came of it, if they came back."""
    # A replay attaches the prompt itself, unproved.
    from promptreg.models.canary import replay_canary

    outcome = replay_canary(anatomy.model, pulled)
    if not outcome.passed:
        raise CanaryError(
            pulled.version.ref,
            str(outcome),
            f"load the base model that it was trained on, {pulled.base}, quantised with less loss if it is",
        )
    return outcome


def read_policy(policy: Policy | str) -> Policy:
    """Return the policy of that name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return Policy(policy)
    except ValueError as error:
        known = ", ".join(Policy)
        raise ConfigurationError(
            "policy", str(policy), "there is no such policy", f"one of {known}"
        ) from error


def _no_prompt(given: object) -> AttachError:
    reference = given if isinstance(given, str) else getattr(given, "ref", "TASK")
    return AttachError(
        f"attach takes what Registry.pull gives, or a SoftPrompt, not a {type(given).__name__}",
        f"registry.pull({reference!r}) fetches it",
    )


def _choose_pulled(prompt: PulledPrompt | SoftPrompt, policy: Policy) -> PulledPrompt | None:
    """Return the prompt with its base model, or None if it names none and none is asked for."""
    if isinstance(prompt, PulledPrompt):
        if policy is Policy.UNCHECKED:
            raise AttachError(
                f"the base model of {prompt.version.ref} is known, and policy='unchecked' would not look at it",
                "choose policy='same-shape' to accept any weights, or attach its .prompt alone",
            )
        return prompt
    if policy is not Policy.UNCHECKED:
        raise AttachError(
            f"a bare soft prompt names no base model, so policy={policy.value!r} has nothing to check",
            "attach what Registry.pull gives, or pass policy='unchecked' to trust that the base model fits",
        )
    return None


def _check_base(
    pulled: PulledPrompt,
    members: Sequence[SoftPrompt],
    actual: "BaseModel",
    anatomy: Anatomy,
    report: AttachReport,
) -> AttachReport:
    """Return ``report`` with how the base model compares, if that is good enough.

    Raises:
        IncompatibleModelError: It is not.
    """
    comparison, compared = _compare(pulled, members, actual, anatomy)
    if _VERDICTS.index(comparison.verdict) > _VERDICTS.index(_ACCEPTED[report.policy]):
        raise IncompatibleModelError(
            str(pulled.base),
            str(actual),
            comparison.verdict.value,
            comparison.differing[:_SHOWN],
            max(len(comparison.differing) - _SHOWN, 0),
            _remedy(comparison.verdict, pulled),
        )
    return replace(
        report,
        actual=str(actual),
        verdict=comparison.verdict,
        headless=comparison.headless,
        compared=compared,
    )


def _compare(
    pulled: PulledPrompt, members: Sequence[SoftPrompt], actual: "BaseModel", anatomy: Anatomy
) -> tuple[Comparison, int]:
    """Return how the two base models compare, and how many tensors that was seen by."""
    table = actual.table
    if table is None:
        raise AttachError("the model's fingerprint came without its table", "fingerprint it again")
    if pulled.base.fingerprint == actual.fingerprint:
        return Comparison(verdict=Verdict.EXACT), len(table.records)
    if pulled.base.table is None:
        raise AttachError(
            f"{pulled.base} is not this model, and came without its table of weights to compare",
            "pull the prompt with Registry.pull, which brings the table",
        )
    replaced = frozenset(name for member in members for name in _replaced(member, anatomy))
    comparison = compare(pulled.base.table, table, replaced=replaced)
    names = {record.name for record in pulled.base.table.records}
    return comparison, len(names & {record.name for record in table.records} - replaced)


def _replaced(prompt: SoftPrompt, anatomy: Anatomy) -> frozenset[str]:
    """Return the canonical names of the base model's weights that the prompt brings itself."""
    naming = Naming.of(anatomy.model)
    return frozenset(naming.canonical(name) for name in own_parameters(prompt, anatomy))


def _remedy(verdict: Verdict, pulled: PulledPrompt) -> str:
    load = f"load {pulled.base}"
    if verdict is Verdict.INCOMPATIBLE:
        return f"{load}: no policy overrides that"
    return f"{load}, or attach with policy={verdict.value!r} to use the prompt on this model all the same"
