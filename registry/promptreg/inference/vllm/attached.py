"""Prompts that were proved to fit the served base model, ready to stand in front of an embedded text."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from promptreg.answers import fill, label_ids
from promptreg.bases import BaseModel
from promptreg.errors import AttachError
from promptreg.inference.vllm.bases import ServedBase
from promptreg.models.proving import prove, read_policy
from promptreg.models.reports import AttachReport, Policy
from promptreg.models.virtual import VirtualTokens
from promptreg.prompts import Placement, PromptVersion, PulledPrompt, SoftPrompt
from promptreg.row_names import HeldPrompts

__all__ = ["AttachedPrompt", "AttachedPrompts"]

_IN_PROCESS = "use it in process, with promptreg.attach"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttachedPrompt:
    """A soft prompt that fits the served base model, or an ensemble of them.

    Attributes:
        name: What requests call it.
        version: What is registered about it; None if it is not.
        soft: The prompt, with its template and its label words.
        report: What was checked when it was attached.
        members: The virtual tokens [P, H]; those of each member, for an ensemble.
        labels: For each label word, the tokens that it is behind the template.
    """

    name: str
    version: PromptVersion | None
    soft: SoftPrompt
    report: AttachReport
    members: tuple[Tensor, ...] = field(repr=False)
    labels: tuple[tuple[int, ...], ...] = field(repr=False)

    @property
    def is_ensemble(self) -> bool:
        """Whether several prompts answer together."""
        return self.soft.vote is not None

    def fill(self, text: str) -> str:
        """Return ``text`` in the prompt's template."""
        return fill(self.soft.template, text)

    def place(self, text: Tensor, member: int = 0) -> Tensor:
        """Return [P + T, H] the virtual tokens beside the embedded text [T, H]."""
        first = 1 if self.soft.placement is Placement.AFTER_BOS else 0
        return torch.cat([text[:first], self.members[member], text[first:]])


class AttachedPrompts(HeldPrompts[AttachedPrompt]):
    """The prompts that are attached to one served base model, by name.

    Attributes:
        served: The base model, with what feeds it.
    """

    def __init__(
        self,
        served: ServedBase,
        *,
        policy: Policy | str = Policy.EXACT,
        ensembles: bool = True,
    ) -> None:
        """Hold no prompt yet.

        Args:
            served: The base model.
            policy: What it must prove before a prompt is attached.
            ensembles: Whether ensembles are taken: a server has no votes to count.
        """
        super().__init__()
        self.served = served
        self._ensembles = ensembles
        self._policy = read_policy(policy)

    @property
    def base(self) -> BaseModel:
        """The base model, by its weights."""
        return self.served.model

    @property
    def prompts(self) -> Mapping[str, AttachedPrompt]:
        """Themselves: what ``Follower`` looks at."""
        return self

    def add(
        self,
        prompt: PulledPrompt | SoftPrompt,
        *,
        name: str | None = None,
        policy: Policy | str | None = None,
        task_id: int | None = None,
        replace: bool = False,
    ) -> str:
        """Attach a prompt after proving that it belongs to the base model.

        Args:
            prompt: What ``Registry.pull`` gives; or a bare soft prompt, under the policy ``unchecked``.
            name: What requests will call it; its version (``sst2@3``) if None.
            policy: What the base model must prove; what these prompts were made with if None.
            task_id: Which task of a multitask prompt; not needed if it has one alone.
            replace: Whether it takes the place of the prompt of that name, if there is one: at once, so that
                each request gets the old one or the new one.

        Returns:
            Its name.

        Raises:
            IncompatibleModelError: It was trained on another base model; nothing changed.
            AttachError: It cannot be used through vLLM, or it has no name; nothing changed.
            ConflictError: Another prompt has that name.
        """
        chosen = self._policy if policy is None else read_policy(policy)
        if chosen is Policy.CANARY:
            raise AttachError(
                "policy='canary' replays recorded outputs, for which the model must be in this process",
                "choose policy='exact'; promptreg check REF --base DIR --canary replays them apart",
            )
        tokens, report = prove(
            self.served.anatomy,
            prompt,
            policy=chosen,
            task_id=task_id,
            at_hand=lambda: self.served.model,
        )
        soft = prompt if isinstance(prompt, SoftPrompt) else prompt.prompt
        if soft.vote is not None and not self._ensembles:
            raise AttachError(
                f"{name or report.reference} is an ensemble, whose members each say something else",
                "serve its members; ensembles answer in process, and by VLLMEngine.answer",
            )
        attached = AttachedPrompt(
            name=_choose_name(name or report.reference),
            version=prompt.version if isinstance(prompt, PulledPrompt) else None,
            soft=soft,
            report=report,
            members=tuple(_embeddings(each) for each in tokens),
            labels=_labels(self.served, soft),
        )
        self.hold(attached, replace=replace)
        return attached.name

    def remove(self, name: str) -> None:
        """Let go of a prompt. A request that runs with it goes on.

        Raises:
            AttachError: None has that name.
        """
        self.pop(name)


def _choose_name(name: str | None) -> str:
    if not name:
        raise AttachError(
            "a bare soft prompt has no name", "pass name=, which requests will call it by"
        )
    return name


def _embeddings(tokens: VirtualTokens) -> Tensor:
    """Return [P, H] The virtual tokens.

    Raises:
        AttachError: They cannot stand in front of an embedded text.
    """
    if tokens.embeddings is None:
        raise AttachError(
            "the prompt is keys and values of every layer (prefix tuning), which vLLM cannot be fed",
            _IN_PROCESS,
        )
    if tokens.modules:
        brought = ", ".join(sorted(tokens.modules))
        raise AttachError(
            f"the prompt brings {brought} of its own, and vLLM runs the base model's", _IN_PROCESS
        )
    return tokens.embeddings


def _labels(served: ServedBase, soft: SoftPrompt) -> tuple[tuple[int, ...], ...]:
    if not soft.labels:
        return ()
    return tuple(map(tuple, label_ids(served.tokenizer, soft.labels, soft.template)))
