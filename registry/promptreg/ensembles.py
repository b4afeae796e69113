"""Ensembles: several prompts for one task that answer together, as one prompt version.

An ensemble holds its members whole, so that its digest pins every number in it and nothing dangles when a
member is withdrawn. P is the number of virtual tokens, H the base model's embedding width, L its layers, K the
width of one layer's keys.
"""

from collections.abc import Callable, Sequence
from typing import Any

from promptreg.errors import ConflictError, InvalidValueError
from promptreg.layouts import (
    FEWEST_MEMBERS,
    PROMPT_EMBEDDINGS,
    member_name,
    without_task_embedding,
)
from promptreg.prompts import Method, Placement, PulledPrompt, SoftPrompt, TaskType, Tensor, Vote

__all__ = ["combine", "members_of"]

_METHODS = (Method.PROMPT_TUNING, Method.P_TUNING, Method.PREFIX_TUNING)
_ANOTHER = "name another version"
# What all members have in common, and what to call it.
_COMMON: tuple[tuple[str, Callable[[PulledPrompt], Any]], ...] = (
    ("base model", lambda member: member.base.name or member.base.fingerprint),
    ("fingerprint", lambda member: member.base.fingerprint),
    ("task", lambda member: member.version.task),
    ("placement", lambda member: member.prompt.placement),
    ("task type", lambda member: member.prompt.task_type),
    ("token_dim", lambda member: member.prompt.token_dim),
    ("num_layers", lambda member: member.prompt.num_layers),
    ("template", lambda member: member.prompt.template),
    ("labels", lambda member: member.prompt.labels),
)


def combine(members: Sequence[PulledPrompt], *, vote: Vote | str) -> SoftPrompt:
    """Return the ensemble of ``members``.

    Args:
        members: Prompts of prompt tuning, p-tuning or prefix tuning for one task on one base model, placed
            alike, with one template and one set of labels; their lengths may differ.
        vote: How they come to one answer.

    Returns:
        A prompt whose tensors are those of its members: ``members.0.prompt_embeddings`` [P_0, H] (or
        [P_0, L * 2 * K]), and so on in their order, but for task embeddings, which answer nothing. P is the sum
        of their lengths.

    Raises:
        InvalidValueError: There are fewer than two members, one stands there twice, was withdrawn or has
            another method; or there is no such vote.
        ConflictError: The members do not belong together.
    """
    refs = [member.version.ref for member in members]
    if len(refs) < FEWEST_MEMBERS:
        reason = f"an ensemble has at least {FEWEST_MEMBERS} members"
        raise InvalidValueError("the members", ", ".join(refs), reason, "name more prompts")
    _check_alike(members)
    _check_each(members)
    first = members[0].prompt
    if _vote(vote) is Vote.MEAN and not first.labels and first.task_type is not TaskType.SEQ_CLS:
        raise InvalidValueError(
            "the vote",
            str(Vote.MEAN),
            "the members have no labels to be probable",
            "vote by majority",
        )
    return SoftPrompt(
        method=Method.ENSEMBLE,
        tensors={
            member_name(index, name): tensor
            for index, member in enumerate(members)
            for name, tensor in without_task_embedding(member.prompt).tensors.items()
        },
        num_virtual_tokens=sum(member.prompt.num_virtual_tokens for member in members),
        members=tuple(refs),
        vote=_vote(vote),
        **_shared(members[0].prompt),
    )


def members_of(prompt: SoftPrompt) -> tuple[SoftPrompt, ...]:
    """Return the members of an ensemble as prompts of their own, in their order.

    How each was trained stays with the version that ``prompt.members`` names.

    Args:
        prompt: An ensemble whose layout was checked: one that was read, pulled or combined.

    Raises:
        InvalidValueError: It is no ensemble.
    """
    if prompt.method is not Method.ENSEMBLE:
        reason = "only an ensemble has members"
        raise InvalidValueError("the prompt", prompt.method, reason, "pass what combine() gave")
    in_layers = prompt.placement is Placement.KEY_VALUES
    method = Method.PREFIX_TUNING if in_layers else Method.PROMPT_TUNING
    return tuple(
        SoftPrompt(
            method=method,
            tensors=tensors,
            num_virtual_tokens=tensors[PROMPT_EMBEDDINGS].shape[0],
            **_shared(prompt),
        )
        for tensors in (_tensors_of(prompt, index) for index in range(len(prompt.members)))
    )


def _shared(prompt: SoftPrompt) -> dict[str, Any]:
    """Return what an ensemble and each of its members say alike."""
    names = ("token_dim", "num_layers", "task_type", "placement", "template", "labels")
    return {name: getattr(prompt, name) for name in names}


def _tensors_of(prompt: SoftPrompt, index: int) -> dict[str, Tensor]:
    prefix = member_name(index, "")
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in prompt.tensors.items()
        if name.startswith(prefix)
    }


def _vote(vote: str) -> Vote:
    try:
        return Vote(vote)
    except ValueError:
        reason, remedy = "there is no such vote", f"choose from {', '.join(Vote)}"
        raise InvalidValueError("the vote", str(vote), reason, remedy) from None


def _check_each(members: Sequence[PulledPrompt]) -> None:
    voters: dict[object, str] = {}  # by the digest of their tensors
    for member in members:
        ref, method = member.version.ref, member.prompt.method
        twin = voters.get(member.version.digest)
        if twin is not None:
            again = "it stands there twice" if twin == ref else f"{twin} has the same tensors"
            raise _unfit(ref, f"{again}, and a prompt has one vote")
        voters[member.version.digest] = ref
        if method not in _METHODS:
            raise _unfit(ref, f"it is {method}, and members are {', '.join(_METHODS)}")
        if member.version.yanked is not None:
            raise _unfit(ref, f"it was yanked ({member.version.yanked.reason})")


def _unfit(ref: str, reason: str) -> InvalidValueError:
    return InvalidValueError("a member", ref, reason, _ANOTHER)


def _check_alike(members: Sequence[PulledPrompt]) -> None:
    first, *others = members
    for what, read in _COMMON:
        for member in others:
            if read(member) != read(first):
                raise ConflictError(
                    f"the {what} of {member.version.ref} is {_shown(read(member))}",
                    f"that of {first.version.ref} is {_shown(read(first))}",
                    "name members that have it in common",
                )


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, tuple) or value is None else f"{value}"
