"""Attaching a prompt: prove that the base model at hand fits, freeze it, place the virtual tokens, report."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from promptreg.errors import (
    AttachError,
    CanaryError,
    ConfigurationError,
    IncompatibleModelError,
    MissingDependencyError,
)
from promptreg.fingerprints import Comparison, Verdict, compare
from promptreg.models.reports import AttachReport, Policy
from promptreg.prompts import PulledPrompt, SoftPrompt

if TYPE_CHECKING:
    from torch import nn

    from promptreg.bases import BaseModel
    from promptreg.models.anatomy import Anatomy
    from promptreg.models.prompted import PromptedModel

__all__ = ["attach"]

_SHOWN = 5
_VERDICTS = list(Verdict)
_ACCEPTED = {
    Policy.EXACT: Verdict.EXACT,
    Policy.SAME_EMBEDDING: Verdict.SAME_EMBEDDING,
    Policy.SAME_SHAPE: Verdict.SAME_SHAPE,
}


def attach(
    model: "nn.Module",
    prompt: PulledPrompt | SoftPrompt,
    *,
    policy: Policy | str = Policy.EXACT,
    task_id: int | None = None,
    cache: bool = True,
) -> "PromptedModel":
    """Put a soft prompt in front of a frozen base model, after proving that the two belong together.

    Args:
        model: The base model, as transformers loads it; it may be compiled or data-parallel.
        prompt: What ``Registry.pull`` gives; or a bare soft prompt, which names no base model and so needs
            ``policy="unchecked"``.
        policy: What the base model must prove.
        task_id: Which task of a multitask prompt; not needed if it has one alone.
        cache: Whether to believe the fingerprint that was taken of this model before, while no weight was seen
            to change; if not, all weights are read.

    Returns:
        The prompted model. Its ``report`` says what was checked. As a context manager, it detaches at the end.

    Raises:
        IncompatibleModelError: The base model is not the one that the prompt was trained on, as far as the
            policy asks; or its shape is another, which no policy overrides.
        CanaryError: The policy is ``canary``, and the recorded outputs did not come back, or there are none.
        AttachError: Prompt and base model fit, but not for use in that way; or ``prompt`` is no prompt.
        BaseModelError: The base model's weights cannot be fingerprinted (it is quantised, say).
        ConfigurationError: There is no such policy.
        MissingDependencyError: torch or transformers is not installed.
    """
    started = time.perf_counter()
    chosen = _read_policy(policy)
    if not isinstance(prompt, PulledPrompt | SoftPrompt):
        raise _no_prompt(prompt)
    soft = prompt if isinstance(prompt, SoftPrompt) else prompt.prompt
    pulled = _choose_pulled(prompt, chosen)
    try:
        from promptreg.models.anatomy import examine
        from promptreg.models.canary import replay_canary
        from promptreg.models.noticing import notice
        from promptreg.models.prompted import PromptedModel
        from promptreg.models.virtual import check_fit, load_virtual_tokens
    except ImportError as error:
        raise MissingDependencyError("transformers", "torch", "attaching a prompt") from error
    anatomy = examine(model)
    check_fit(soft, anatomy)
    report = AttachReport(
        reference=pulled.version.ref if pulled else None,
        expected=str(pulled.base) if pulled else None,
        policy=chosen,
        notes=notice(anatomy),
    )
    if pulled is not None and chosen in _ACCEPTED:
        report = _check_base(pulled, anatomy, report, cache=cache)
    virtual = load_virtual_tokens(soft, anatomy, task_id=task_id)
    if pulled is not None and chosen is Policy.CANARY:
        outcome = replay_canary(model, pulled)
        if not outcome.passed:
            raise CanaryError(
                pulled.version.ref,
                str(outcome),
                f"load the base model that it was trained on, {pulled.base}, quantised with less loss if it is",
            )
        report = replace(report, canary=outcome)
    seconds = time.perf_counter() - started
    report = replace(report, conversions=virtual.conversions, seconds=seconds)
    return PromptedModel(anatomy, virtual, report)


def _read_policy(policy: Policy | str) -> Policy:
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
    pulled: PulledPrompt, anatomy: "Anatomy", report: AttachReport, *, cache: bool
) -> AttachReport:
    """Return ``report`` with how the base model compares, if that is good enough.

    Raises:
        IncompatibleModelError: It is not.
    """
    from promptreg.models.fingerprinting import from_module

    actual = from_module(anatomy.model, cache=cache)
    comparison, compared = _compare(pulled, actual, anatomy)
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
    pulled: PulledPrompt, actual: "BaseModel", anatomy: "Anatomy"
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
    replaced = _replaced(pulled.prompt, anatomy)
    comparison = compare(pulled.base.table, table, replaced=replaced)
    names = {record.name for record in pulled.base.table.records}
    return comparison, len(names & {record.name for record in table.records} - replaced)


def _replaced(prompt: SoftPrompt, anatomy: "Anatomy") -> frozenset[str]:
    """Return the canonical names of the base model's weights that the prompt brings itself."""
    from promptreg.models.canonical import Naming
    from promptreg.models.virtual import own_parameters

    naming = Naming.of(anatomy.model)
    return frozenset(naming.canonical(name) for name in own_parameters(prompt, anatomy))


def _remedy(verdict: Verdict, pulled: PulledPrompt) -> str:
    load = f"load {pulled.base}"
    if verdict is Verdict.INCOMPATIBLE:
        return f"{load}: no policy overrides that"
    return f"{load}, or attach with policy={verdict.value!r} to use the prompt on this model all the same"
