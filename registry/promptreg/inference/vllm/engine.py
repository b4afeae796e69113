"""The offline engine: many prompts on one base model that vLLM runs, batched over all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from promptreg.answers import Answer, choose_label, vote
from promptreg.bases import BaseModel
from promptreg.errors import AttachError, NonFiniteError
from promptreg.inference.vllm.attached import AttachedPrompt, AttachedPrompts
from promptreg.inference.vllm.bases import ServedBase
from promptreg.inference.vllm.offline import OfflineVLLM, import_vllm
from promptreg.inference.vllm.scoring import Answers, Question, log_probabilities, questions
from promptreg.models.reports import Policy
from promptreg.prompts import PulledPrompt, SoftPrompt

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


__all__ = ["Continuation", "VLLMEngine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """What the base model says after a row.

    Attributes:
        prompt: The name of the prompt in front of it; None for the bare base model.
        token_ids: The new tokens, an end of sequence too.
        text: What they read.
        finish_reason: ``stop`` at an end of sequence or a stop word, ``length`` where the tokens ran out.
    """

    prompt: str | None
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """One row of a batch: a text with its prompt, or with one member of its ensemble."""

    prompt: AttachedPrompt | None
    ids: tuple[int, ...]
    member: int = 0


class VLLMEngine:
    """A frozen base model that vLLM runs, and the soft prompts attached to it.

    The directory is fingerprinted, and each prompt proved to fit it, before vLLM is started. As a context
    manager, it closes at the end.
    """

    def __init__(
        self,
        directory: str | Path,
        *prompts: PulledPrompt | SoftPrompt,
        policy: Policy | str = Policy.EXACT,
        **engine_arguments: Any,
    ) -> None:
        """Start vLLM on the base model in ``directory``.

        Args:
            directory: A transformers directory with safetensors weights.
            prompts: Prompts to attach at once, under the names of their versions.
            policy: What the base model must prove: ``exact``, ``same-embedding``, ``same-shape``; or
                ``unchecked`` for bare soft prompts.
            engine_arguments: What ``vllm.LLM`` takes: ``max_model_len``, ``enforce_eager``,
                ``gpu_memory_utilization`` … Without ``dtype``, the model runs in the one that it is stored in.

        Raises:
            IncompatibleModelError: A prompt was trained on another base model.
            AttachError: A prompt cannot be used through vLLM, or vLLM does not start.
            BaseModelError: The base model cannot be fingerprinted.
            MissingDependencyError: vllm is not installed.
        """
        import_vllm()  # before the work that it would be in vain without
        self._base = ServedBase.open(directory, dtype=engine_arguments.pop("dtype", None))
        self._attached = AttachedPrompts(self._base, policy=policy)
        for prompt in prompts:
            self._attached.add(prompt)
        self._vllm = OfflineVLLM(self._base, engine_arguments)

    @property
    def base(self) -> BaseModel:
        """The base model, by its weights."""
        return self._base.model

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The base model's tokenizer."""
        return self._base.tokenizer

    @property
    def prompts(self) -> Mapping[str, AttachedPrompt]:
        """The attached prompts, by name."""
        return self._attached

    def add(
        self,
        prompt: PulledPrompt | SoftPrompt,
        *,
        name: str | None = None,
        policy: Policy | str | None = None,
        task_id: int | None = None,
        replace: bool = False,
    ) -> str:
        """Attach one more prompt, after proving that it belongs to the base model.

        Args:
            prompt: What ``Registry.pull`` gives; or a bare soft prompt, under the policy ``unchecked``.
            name: What rows will name it by; its reference (``sst2@3``) if None. Where nothing else is meant,
                rows may also name it by its task alone, or by an alias that it had when it was pulled.
            policy: What the base model must prove; what the engine was given if None.
            task_id: Which task of a multitask prompt; not needed if it has one alone.
            replace: Whether it takes the place of the prompt of that name, if there is one.

        Returns:
            Its name.

        Raises:
            IncompatibleModelError: It was trained on another base model; nothing changed.
            AttachError: It cannot be used through vLLM, or it has no name; nothing changed.
            ConflictError: Another prompt has that name.
        """
        return self._attached.add(
            prompt, name=name, policy=policy, task_id=task_id, replace=replace
        )

    def remove(self, name: str) -> None:
        """Detach a prompt; a batch that runs keeps it.

        Raises:
            AttachError: There is none of that name.
        """
        self._attached.remove(name)

    def generate(
        self,
        inputs: "Sequence[str] | Sequence[Sequence[int]] | Tensor",
        attention_mask: "Tensor | None" = None,
        *,
        prompts: Sequence[str | None] | None = None,
        max_new_tokens: int = 16,
        temperature: float = 0.0,
        **sampling: Any,
    ) -> list[Continuation]:
        """Continue every row, each behind its own prompt.

        Args:
            inputs: [B] texts, each of which is put into its prompt's template; or [B] rows of token ids
                (a tensor [B, T] too), which are taken as they are.
            attention_mask: [B, T] Which tokens of a tensor are real, padded on either side; None if all are.
            prompts: [B] The name of each row's prompt, None for the bare base model; or None if there is only
                one prompt to mean.
            max_new_tokens: How many tokens to add at most; fewer where the window ends.
            temperature: 0 takes the likeliest token each time.
            sampling: What else ``vllm.SamplingParams`` takes: ``top_p``, ``top_k``, ``seed``, ``stop`` …

        Returns:
            [B] The continuations.

        Raises:
            AttachError: A name is unknown, there are more or fewer than rows, a row is empty or does not fit
                into the window together with its prompt, or vLLM refuses the settings.
        """
        given = _rows_of(inputs, attention_mask)
        if not given:
            raise AttachError("the batch is empty", "pass at least one row")
        rows = []
        for prompt, text in zip(self._attached.chosen(prompts, len(given)), given, strict=True):
            if prompt is not None and prompt.is_ensemble:
                raise AttachError(
                    f"{prompt.name} is an ensemble, whose members each say something else",
                    "ask answer(), which lets them vote",
                )
            rows.append(self._row(prompt, text))
        settings = {**sampling, "temperature": temperature, "max_tokens": max_new_tokens}
        return self._continue(rows, settings)

    def answer(
        self,
        texts: Sequence[str],
        *,
        prompts: Sequence[str | None] | None = None,
        max_new_tokens: int = 64,
        **sampling: Any,
    ) -> list[Answer]:
        """Answer every text as its prompt's manifest says: with a label and its scores, or a continuation.

        All tokens of each label are scored. An ensemble's members vote. The bare base model continues the text.

        Args:
            texts: [B] Texts, each of which is put into its prompt's template.
            prompts: [B] As ``generate``.
            max_new_tokens: How many tokens a continuation has at most.
            sampling: What ``vllm.SamplingParams`` takes besides, for continuations.

        Returns:
            [B] The answers.

        Raises:
            AttachError: As ``generate``.
            NonFiniteError: Some labels got no numbers; the others' answers are in the error.
        """
        if isinstance(texts, str):
            raise AttachError("texts is one text", "pass a list with one entry a row")
        attached = self._attached.chosen(prompts, len(texts))
        rows = [
            self._row(prompt, text, member)
            for prompt, text in zip(attached, texts, strict=True)
            for member in range(1 if prompt is None else len(prompt.members))
        ]
        settings = {"temperature": 0.0, **sampling, "max_tokens": max_new_tokens}
        given = iter(self._answer(rows, settings))
        answers = [
            _vote(
                prompt, [next(given) for _ in range(1 if prompt is None else len(prompt.members))]
            )
            for prompt in attached
        ]
        failed = [at for at, answer in enumerate(answers) if answer is None]
        if failed:
            names = [None if (prompt := attached[at]) is None else prompt.name for at in failed]
            raise NonFiniteError(failed, names, answers)
        return [answer for answer in answers if answer is not None]

    def close(self) -> None:
        """End vLLM's processes. Doing it again changes nothing."""
        self._vllm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _row(
        self, prompt: AttachedPrompt | None, text: str | Sequence[int], member: int = 0
    ) -> _Row:
        """Return a row after checking that there is something in it."""
        if isinstance(text, str):
            filled = text if prompt is None else prompt.fill(text)
            text = self._base.read(filled)
        if not text and prompt is None:
            raise AttachError("a row of the bare base model has no tokens", "give it a text")
        self._base.check_ids(text)
        return _Row(prompt=prompt, ids=tuple(text), member=member)

    def _answer(self, rows: Sequence[_Row], settings: dict[str, Any]) -> list[Answer | None]:
        """Return what each row is answered; None where there are no numbers."""
        labelled = [row for row in rows if row.prompt is not None and row.prompt.labels]
        scored = iter(self._score(labelled))
        others = [row for row in rows if row.prompt is None or not row.prompt.labels]
        continued = iter(self._continue(others, settings))
        answers: list[Answer | None] = []
        for row in rows:
            if row.prompt is not None and row.prompt.labels:
                answers.append(next(scored))
            else:
                said = next(continued)
                answers.append(Answer(prompt=said.prompt, text=said.text.strip()))
        return answers

    def _continue(self, rows: Sequence[_Row], settings: dict[str, Any]) -> list[Continuation]:
        params = self._vllm.settings(**settings)
        outputs = self._vllm.run([self._input(row) for row in rows], [params] * len(rows))
        return [
            Continuation(
                prompt=None if row.prompt is None else row.prompt.name,
                token_ids=tuple(output.outputs[0].token_ids),
                text=output.outputs[0].text,
                finish_reason=output.outputs[0].finish_reason,
            )
            for row, output in zip(rows, outputs, strict=True)
        ]

    def _score(self, rows: Sequence[_Row]) -> list[Answer | None]:
        """Return each row's likeliest label, asking all about all rows in one batch; None without numbers."""
        asked: list[tuple[int, Question]] = []
        for at, row in enumerate(rows):
            if row.prompt is not None:
                asked += [(at, question) for question in questions(row.prompt.labels)]
        outputs = self._vllm.run(
            [self._input(rows[at], question.prefix) for at, question in asked],
            [
                self._vllm.settings(
                    max_tokens=1,
                    temperature=0.0,
                    logprob_token_ids=list(question.tokens),
                    detokenize=False,
                )
                for _, question in asked
            ],
        )
        found: list[dict[tuple[tuple[int, ...], int], float]] = [{} for _ in rows]
        for (at, question), output in zip(asked, outputs, strict=True):
            (said,) = output.outputs[0].logprobs
            for token in question.tokens:
                found[at][question.prefix, token] = said[token].logprob
        return [
            _choose(row.prompt, known)
            for row, known in zip(rows, found, strict=True)
            if row.prompt is not None
        ]

    def _input(self, row: _Row, further: tuple[int, ...] = ()) -> dict[str, Any]:
        """Return what vLLM reads: the prompt and the embedded row, or the row's token ids where it is bare.

        Raises:
            AttachError: It does not fit into the window, with one token to come.
        """
        taken = 0 if row.prompt is None else len(row.prompt.members[row.member])
        room = self._vllm.window - taken - len(further) - 1
        if len(row.ids) > room:
            behind = f" behind the {taken} of {row.prompt.name}" if row.prompt else ""
            raise AttachError(
                f"a row is {len(row.ids)} tokens long, and {max(room, 0)} fit{behind} into a window of "
                f"{self._vllm.window} that leaves one to be said",
                "shorten the text, or start the engine with a larger max_model_len",
            )
        if row.prompt is None:
            return {"prompt_token_ids": [*row.ids, *further]}
        text = self._base.embed([*row.ids, *further])
        return {"prompt_embeds": row.prompt.place(text, row.member)}


def _choose(prompt: AttachedPrompt, answers: Answers) -> Answer | None:
    """Return the likeliest label; None if one got no number."""
    log_probs = log_probabilities(prompt.labels, answers)
    if not all(math.isfinite(each) for each in log_probs):
        return None
    return choose_label(prompt.name, prompt.soft.labels, log_probs)


def _vote(prompt: AttachedPrompt | None, given: Sequence[Answer | None]) -> Answer | None:
    """Return what the members of an ensemble come to, or the one answer that there is."""
    answers = [answer for answer in given if answer is not None]
    if len(answers) < len(given):
        return None
    if prompt is None or prompt.soft.vote is None:
        return answers[0]
    return vote(answers, prompt.soft.vote, prompt.name)


def _rows_of(
    inputs: "Sequence[str] | Sequence[Sequence[int]] | Tensor", mask: "Tensor | None"
) -> list[str | list[int]]:
    """Return texts, or rows of token ids without padding."""
    import torch

    if isinstance(inputs, torch.Tensor):
        if mask is None:
            return list(inputs.tolist())
        if mask.shape != inputs.shape:
            raise AttachError(
                f"attention_mask is {list(mask.shape)}, and the token ids are {list(inputs.shape)}",
                "pass one of the same shape",
            )
        return [row[kept != 0].tolist() for row, kept in zip(inputs, mask, strict=True)]
    if mask is not None:
        raise AttachError("attention_mask was given with rows that have no padding", "leave it out")
    if isinstance(inputs, str):
        raise AttachError("inputs is one text", "pass a list with one entry a row")
    return [row if isinstance(row, str) else list(row) for row in inputs]
