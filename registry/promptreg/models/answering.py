"""Text in, text out: templates, label words and votes of many prompts, answered in mixed batches.

B is the rows of a batch, T the text's tokens, C the labels, M the longest label's tokens, V the vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, pad
from transformers.modeling_outputs import BaseModelOutput

from promptreg.answers import Answer, choose_label, fill, label_ids, vote
from promptreg.errors import AttachError, NonFiniteError
from promptreg.models.anatomy import Kind
from promptreg.models.rows import decoder_start, last_columns, padded
from promptreg.models.virtual import VirtualTokens
from promptreg.prompts import Vote

if TYPE_CHECKING:
    from promptreg.models.prompted import PromptedModel

__all__ = ["Asked", "answer_texts"]


class Asked(Protocol):
    """What answers a text: an attached prompt, one in training, or the bare base model in a template."""

    @property
    def name(self) -> str | None:
        """What its answers are marked with."""

    @property
    def template(self) -> str | None:
        """The text around the input, with ``{text}`` where it goes; None for the bare input."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The label words to choose from; none for a continuation."""

    @property
    def vote(self) -> Vote | None:
        """How the members of an ensemble agree; None for a single prompt."""

    @property
    def tokens(self) -> Sequence[VirtualTokens | None]:
        """Its virtual tokens; those of each member, for an ensemble; None for the bare base model."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Job:
    """One text, for one prompt or one member of an ensemble.

    Attributes:
        row: Which of the texts it is.
        ids: The token ids of the filled template.
        name: The prompt's name; None for the bare base model.
        tokens: The prompt's virtual tokens; None for the bare base model.
        labels: The label words, or the classes; none for a continuation.
        label_ids: The tokens of each label; none where the model classifies by itself.
    """

    row: int
    ids: list[int]
    name: str | None
    tokens: VirtualTokens | None
    labels: tuple[str, ...] = ()
    label_ids: tuple[tuple[int, ...], ...] = ()


def answer_texts(
    prompted: "PromptedModel",
    texts: Sequence[str],
    prompts: Sequence[Asked | None],
    *,
    max_new_tokens: int,
    batch_size: int,
    arguments: Mapping[str, Any],
) -> list[Answer]:
    """Answer ``texts``, as ``PromptedModel.answer`` says.

    Args:
        prompted: The prompted model.
        texts: [N] The texts.
        prompts: [N] Each one's prompt; None for the bare base model.
        max_new_tokens: How long a continuation gets at most.
        batch_size: How many rows go through the base model at once.
        arguments: What ``generate`` takes besides.
    """
    _check_arguments(texts, batch_size, arguments)
    jobs = _plan(prompted, texts, prompts)
    _check_rooms(prompted, jobs)
    answers: dict[_Job, Answer] = {}
    failed: list[_Job] = []
    choose = partial(_choose, prompted)
    write = partial(_write, prompted, max_new_tokens=max_new_tokens, arguments=arguments)
    for step, own in (
        (choose, [job for job in jobs if job.labels]),
        (write, [job for job in jobs if not job.labels]),
    ):
        for batch in _batches(prompted, own, batch_size):
            try:
                found: Sequence[Answer | None] = step(batch)
            except NonFiniteError as error:
                found = error.output  # type: ignore[assignment]
            answers.update((j, a) for j, a in zip(batch, found, strict=True) if a is not None)
            failed += [job for job, answer in zip(batch, found, strict=True) if answer is None]
    voted = _vote(texts, prompts, jobs, answers)
    if failed:
        rows = sorted({job.row for job in failed})
        names = [next(job.name for job in failed if job.row == row) for row in rows]
        raise NonFiniteError(rows, names, voted)
    return [answer for answer in voted if answer is not None]


def _check_arguments(
    texts: Sequence[object], batch_size: int, arguments: Mapping[str, Any]
) -> None:
    """Return if these are texts, and what ``generate`` takes that leaves one answer a text."""
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise AttachError(f"text {row} is a {type(text).__name__}", "pass texts")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise AttachError(
                f"text {row} holds half a character ({error.reason})", "leave the half out"
            ) from error
    if batch_size < 1:
        raise AttachError(f"batch_size is {batch_size}", "pass 1 or more")
    for name, single in _ONE_ANSWER.items():
        if arguments.get(name) not in (None, single):
            raise AttachError(
                f"{name} is {arguments[name]}, and a text has one answer", "call generate for more"
            )


_ONE_ANSWER = {"num_return_sequences": 1, "return_dict_in_generate": False, "streamer": None}


def _plan(
    prompted: "PromptedModel", texts: Sequence[str], prompts: Sequence[Asked | None]
) -> list[_Job]:
    """Return what is to be answered: a text once, or once for each member of an ensemble."""
    tokenizer = prompted.tokenizer
    templates = [None if prompt is None else prompt.template for prompt in prompts]
    filled = [fill(template, text) for template, text in zip(templates, texts, strict=True)]
    rows = [list(ids) for ids in tokenizer(filled)["input_ids"]] if filled else []
    known: dict[str | None, tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]] = {}
    jobs = []
    for row, (prompt, ids) in enumerate(zip(prompts, rows, strict=True)):
        name = None if prompt is None else prompt.name
        if not ids:
            raise AttachError(f"text {row} has no tokens", "leave it out, or give it a word")
        if name not in known:
            known[name] = _labels(prompted, prompt)
        labels, tokens = known[name]
        members = (None,) if prompt is None else prompt.tokens
        jobs += [
            _Job(row=row, ids=ids, name=name, tokens=each, labels=labels, label_ids=tokens)
            for each in members
        ]
    return jobs


def _labels(
    prompted: "PromptedModel", prompt: Asked | None
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Return the labels that a prompt chooses from, and their tokens."""
    labels = () if prompt is None else prompt.labels
    if prompted.anatomy.pooled:
        classes: Mapping[Any, str] = prompted.config.id2label or {}
        own = tuple(classes[at] for at in range(len(classes)))
        if labels and len(labels) != len(own):
            raise AttachError(
                f"{prompt and prompt.name} has {len(labels)} labels, and the base model {len(own)} classes",
                "load the base model with the head that the prompt was trained with",
            )
        return labels or own, ()
    if not prompted.model.can_generate():
        raise AttachError(
            f"a {type(prompted.model).__name__} says nothing that is an answer",
            "load the base model with a language model's head, or one that classifies",
        )
    if prompt is None or not labels:
        return (), ()
    both = prompted.anatomy.kind is Kind.ENCODER_DECODER
    found = label_ids(prompted.tokenizer, labels, prompt.template, with_end=both)
    return labels, tuple(map(tuple, found))


def _check_rooms(prompted: "PromptedModel", jobs: Sequence[_Job]) -> None:
    """Return if every text fits into the window beside its prompt, with room for an answer.

    Raises:
        AttachError: One does not; all are checked before the first is run.
    """
    window = prompted.anatomy.window
    if window is None:
        return
    decodes = prompted.anatomy.kind is Kind.DECODER and not prompted.anatomy.pooled
    for job in jobs:
        virtual = 0 if job.tokens is None else job.tokens.length
        answer = max(map(len, job.label_ids), default=1) if decodes else 0
        room = window - virtual - answer
        if len(job.ids) > room:
            raise AttachError(
                f"text {job.row} is {len(job.ids)} tokens long in its template, and {max(room, 0)} fit into "
                f"the model's window of {window} beside {virtual} virtual tokens"
                + (f" and {answer} for the answer" if decodes else ""),
                f"shorten it by {len(job.ids) - room} tokens",
            )


def _batches(prompted: "PromptedModel", jobs: Sequence[_Job], size: int) -> Iterator[list[_Job]]:
    """Yield the jobs, those of like length together, so that little goes into padding."""
    anatomy = prompted.anatomy
    # There, only prompts of keys and values of one length may share a batch.
    alike = anatomy.kind is Kind.ENCODER or (
        anatomy.kind is Kind.ENCODER_DECODER and anatomy.counts_columns
    )
    apart: dict[tuple[int, int], list[_Job]] = {}
    for job in jobs:
        virtual = 0 if job.tokens is None else job.tokens.length
        table = job.tokens.key_table if alike and job.tokens else None
        key = (0 if table is None else len(table.table), 0)
        apart.setdefault((len(job.ids), virtual) if anatomy.wants_rows_alike else key, []).append(
            job
        )
    for group in apart.values():
        ordered = sorted(group, key=lambda job: len(job.ids), reverse=True)
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]


@torch.no_grad()
def _choose(prompted: "PromptedModel", jobs: Sequence[_Job]) -> list[Answer]:
    """Return the label for each job.

    Raises:
        NonFiniteError: Some got no numbers; the others' answers are in the error.
    """
    if prompted.anatomy.pooled:
        scores = _classify(prompted, jobs)
    elif prompted.anatomy.kind is Kind.ENCODER_DECODER:
        scores = _score_decoded(prompted, jobs)
    else:
        scores = _score_continued(prompted, jobs)
    answers: list[Answer | None] = []
    for job, own in zip(jobs, scores, strict=True):
        finite = bool(torch.tensor(own).isfinite().all())
        answers.append(choose_label(job.name, job.labels, own) if finite else None)
    failed = [at for at, answer in enumerate(answers) if answer is None]
    if failed:
        raise NonFiniteError(failed, [jobs[at].name for at in failed], answers)
    return [answer for answer in answers if answer is not None]


def _classify(prompted: "PromptedModel", jobs: Sequence[_Job]) -> list[list[float]]:
    """Return [B, C] the log-probability of each class."""
    batch = padded([job.ids for job in jobs], prompted.device, left=False)
    rows = prompted.mix([job.tokens for job in jobs])
    logits = prompted.run(rows, dict(batch)).logits
    scores: list[list[float]] = log_softmax(logits.float(), dim=-1).tolist()
    return scores


def _score_continued(prompted: "PromptedModel", jobs: Sequence[_Job]) -> list[list[float]]:
    """Return [B, C] how likely each label is as the continuation of each text."""
    batch = padded([job.ids for job in jobs], prompted.device, left=True)
    keep = last_columns(prompted.anatomy.accepts, -1, -1)
    longer = any(len(ids) > 1 for job in jobs for ids in job.label_ids)
    mixed = prompted.mix([job.tokens for job in jobs])
    output = prompted.run(mixed, {**batch, **keep, "use_cache": longer})
    first = log_softmax(output.logits[:, -1].float(), dim=-1)  # [B, V]
    scores = [
        [float(score) for score in first[at, [ids[0] for ids in job.label_ids]].tolist()]
        for at, job in enumerate(jobs)
    ]
    pairs = [
        (at, label)
        for at, job in enumerate(jobs)
        for label, ids in enumerate(job.label_ids)
        if len(ids) > 1
    ]
    if not pairs:
        return scores
    rows = [at for at, _ in pairs]
    labels = [jobs[at].label_ids[label] for at, label in pairs]
    cache = output.get("past_key_values")
    if cache is None or not all(hasattr(each, "batch_select_indices") for each in cache.layers):
        rest = _score_anew(
            prompted, [(jobs[at], ids) for (at, _), ids in zip(pairs, labels, strict=True)]
        )
        for (at, label), score in zip(pairs, rest, strict=True):
            scores[at][label] = score
        return scores
    given = padded([ids[:-1] for ids in labels], prompted.device, left=False)
    mask = torch.cat([batch["attention_mask"][rows], given["attention_mask"]], dim=1)
    # Each text is read once: its cache is what all of its labels go on from.
    cache.batch_select_indices(torch.tensor(rows, device=prompted.device))
    logits = prompted.run(
        mixed.select(rows),
        {"input_ids": given["input_ids"], "attention_mask": mask, "past_key_values": cache},
    ).logits  # [pairs, M - 1, V]
    rest = _sum_of(logits, [ids[1:] for ids in labels])
    for (at, label), score in zip(pairs, rest, strict=True):
        scores[at][label] += score
    return scores


def _score_anew(
    prompted: "PromptedModel", pairs: Sequence[tuple[_Job, Sequence[int]]]
) -> list[float]:
    """Return how likely each label is behind its text, where no cache can be shared: a row a label."""
    batch = padded([[*job.ids, *ids[:-1]] for job, ids in pairs], prompted.device, left=True)
    logits = prompted.run(prompted.mix([job.tokens for job, _ in pairs]), dict(batch)).logits
    longest = max(len(ids) for _, ids in pairs)
    own = [  # each row's last ones, brought to the front of it
        logits[at, -len(ids) :] for at, (_, ids) in enumerate(pairs)
    ]
    front = torch.stack([pad(each, (0, 0, 0, longest - len(each))) for each in own])
    return _sum_of(front, [ids for _, ids in pairs])


def _score_decoded(prompted: "PromptedModel", jobs: Sequence[_Job]) -> list[list[float]]:
    """Return [B, C] how likely each label is as what the decoder of an encoder-decoder writes."""
    batch = padded([job.ids for job in jobs], prompted.device, left=False)
    owners = [job.tokens for job in jobs]
    start = decoder_start(prompted)
    begun = torch.full((len(jobs), 1), start, device=prompted.device)
    states = prompted.run(
        prompted.mix(owners), {**batch, "decoder_input_ids": begun}
    ).encoder_last_hidden_state
    pairs = [(at, ids) for at, job in enumerate(jobs) for ids in job.label_ids]
    rows = [at for at, _ in pairs]
    given = padded([[start, *ids[:-1]] for _, ids in pairs], prompted.device, left=False)
    logits = prompted.run(
        prompted.mix([owners[at] for at in rows]),
        {
            "encoder_outputs": BaseModelOutput(last_hidden_state=states[rows]),
            "attention_mask": batch["attention_mask"][rows],
            "decoder_input_ids": given["input_ids"],
        },
    ).logits  # [pairs, M, V]
    scores = iter(_sum_of(logits, [ids for _, ids in pairs]))
    return [[next(scores) for _ in job.label_ids] for job in jobs]


def _sum_of(logits: Tensor, wanted: Sequence[Sequence[int]]) -> list[float]:
    """Return for each row of ``logits`` [B, M, V] the log-probability of its ``wanted`` tokens, M at most."""
    batch = padded(wanted, logits.device, left=False)
    chosen = log_softmax(logits.float(), dim=-1).gather(2, batch["input_ids"][..., None])
    # Behind the last token there may be anything, infinite numbers too.
    chosen = chosen[..., 0].masked_fill(batch["attention_mask"] == 0, 0.0)
    sums: list[float] = chosen.sum(dim=1).tolist()
    return sums


def _write(
    prompted: "PromptedModel",
    jobs: Sequence[_Job],
    *,
    max_new_tokens: int,
    arguments: Mapping[str, Any],
) -> list[Answer | None]:
    """Return the continuation of each job's text; None for one that got no numbers."""
    batch = padded([job.ids for job in jobs], prompted.device, left=True)
    tokenizer = prompted.tokenizer
    settings = {"max_new_tokens": _room(prompted, jobs, max_new_tokens), **arguments}
    if prompted.generation_config.pad_token_id is None:
        # Only the text of a row that ended early is padded with it, and decoding leaves it out.
        pad = tokenizer.pad_token_id
        settings.setdefault("pad_token_id", tokenizer.eos_token_id if pad is None else pad)
    failed: tuple[int, ...] = ()
    try:
        rows = prompted.mix([job.tokens for job in jobs], [job.name for job in jobs])
        output = prompted.generate_rows(rows, {**batch, **settings})
    except NonFiniteError as error:
        output, failed = error.output, error.rows
    if prompted.anatomy.kind is not Kind.ENCODER_DECODER:
        output = output[:, batch["input_ids"].shape[1] :]
    written = tokenizer.batch_decode(output, skip_special_tokens=True)
    return [
        None if at in failed else Answer(prompt=job.name, text=str(text).strip())
        for at, (job, text) in enumerate(zip(jobs, written, strict=True))
    ]


def _room(prompted: "PromptedModel", jobs: Sequence[_Job], wanted: int) -> int:
    """Return how many tokens may be written: those wanted, or as many as a table of positions has left."""
    anatomy = prompted.anatomy
    if anatomy.window is None or not anatomy.learned_positions or anatomy.kind is not Kind.DECODER:
        return wanted
    taken = max(len(job.ids) + (job.tokens.length if job.tokens else 0) for job in jobs)
    return max(min(wanted, anatomy.window - taken), 1)


def _vote(
    texts: Sequence[str],
    prompts: Sequence[Asked | None],
    jobs: Sequence[_Job],
    answers: Mapping[_Job, Answer],
) -> list[Answer | None]:
    """Return each text's answer; None where one of those that it needs is missing."""
    by_row: list[list[Answer | None]] = [[] for _ in texts]
    for job in jobs:
        by_row[job.row].append(answers.get(job))
    voted: list[Answer | None] = []
    for prompt, own in zip(prompts, by_row, strict=True):
        given = [answer for answer in own if answer is not None]
        if len(given) < len(own):
            voted.append(None)
        elif prompt is not None and prompt.vote is not None:
            voted.append(vote(given, prompt.vote, str(prompt.name)))
        else:
            voted.append(given[0])
    return voted
