"""What a push checks, completes and describes around what the registry stores. No engine is used."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from promptreg.bases import BaseModel
from promptreg.database import NewVersion
from promptreg.database.scalars import check_scalars
from promptreg.digests import Digest
from promptreg.errors import InvalidValueError
from promptreg.fitting import for_base
from promptreg.names import check_alias, check_task
from promptreg.prompts import PromptVersion, Scalar, SoftPrompt
from promptreg.results import Result, check_method

__all__ = [
    "Pushed",
    "check_facts",
    "check_labels",
    "check_manner",
    "check_result",
    "check_template",
    "check_words",
    "complete",
    "plain",
    "render_record",
    "render_result",
    "say_again",
]

_LONGEST_NOTE = 10_000
_LONGEST_LABELS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push did.

    Attributes:
        version: The registered version.
        created: False if it was there already: the same prompt for the same task and base model.
        notes: What a person should know about it.
    """

    version: PromptVersion
    created: bool
    notes: tuple[str, ...] = ()


def check_facts(*, aliases: Sequence[str], labels: Sequence[str], note: str | None) -> None:
    """Return if what a person said beside the prompt can be registered.

    Raises:
        InvalidNameError: An alias is outside the grammar.
        InvalidValueError: Another fact cannot be kept as it is.
    """
    check_words("the aliases", aliases)
    check_words("the labels", labels)
    for alias in aliases:
        check_alias(alias)
    if note is not None and len(note) > _LONGEST_NOTE:
        reason = f"it has {len(note):,} characters, and {_LONGEST_NOTE:,} are kept"
        raise InvalidValueError("the note", note, reason, "say it shorter, or link to it")


def check_manner(prompt: SoftPrompt) -> None:
    """Return if a prompt says how to use it: a place for the text, and labels that differ.

    Raises:
        InvalidValueError: It does not.
    """
    check_template(prompt.template)
    check_labels(prompt.labels)


def check_template(template: str | None) -> None:
    """Return if a template has one place for the text.

    Raises:
        InvalidValueError: It has none, or several.
    """
    if template is not None and template.count("{text}") != 1:
        raise InvalidValueError(
            "the template",
            template,
            "the input has no one place in it",
            "write {text} once, where it goes",
        )


def check_labels(labels: Sequence[str]) -> None:
    """Return if labels differ, and are few and short enough to be kept.

    Raises:
        InvalidValueError: They do not, or are not.
    """
    for at, label in enumerate(labels):
        if not label.strip() or label in labels[:at]:
            reason = "it is given twice" if label.strip() else "it is empty"
            raise InvalidValueError("the label", label, reason, "use labels that differ")
    if (length := sum(map(len, labels))) > _LONGEST_LABELS:
        reason = f"they have {length:,} characters in all, and {_LONGEST_LABELS:,} are kept"
        raise InvalidValueError(
            "the labels", f"{labels[0][:40]}…", reason, "answers that differ each time are targets"
        )


def check_result(
    task: str,
    method: str,
    hyperparameters: Mapping[str, Scalar],
    metrics: Mapping[str, Scalar],
) -> None:
    """Return if a result without a prompt says what it is, before its base model is stored.

    Raises:
        InvalidNameError: A name is outside the grammar.
        InvalidValueError: The method makes prompts, a value cannot be kept, or nothing was measured.
    """
    check_task(task)
    check_method(method)
    check_scalars("hyperparameter", hyperparameters)
    check_scalars("metric", metrics)
    if not metrics:
        raise InvalidValueError("the result", method, "it has no metrics", "record what it scored")


def check_words(what: str, words: Sequence[str]) -> None:
    """Return if ``words`` are several texts, not the letters of one.

    Raises:
        InvalidValueError: They are one text.
    """
    if isinstance(words, str):
        raise InvalidValueError(what, words, "a text is no list of texts", f"pass [{words!r}]")


def complete(
    prompt: SoftPrompt,
    base: BaseModel,
    *,
    hyperparameters: Mapping[str, Scalar],
    template: str | None,
    labels: Sequence[str],
) -> SoftPrompt:
    """Return ``prompt`` with what its file did not say."""
    return replace(
        for_base(prompt, base),
        hyperparameters={**prompt.hyperparameters, **plain(hyperparameters)},
        template=template if template is not None else prompt.template,
        labels=tuple(labels) or prompt.labels,
    )


def plain(values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return ``values`` with numpy's and torch's scalars as Python's own."""
    read = ((name, getattr(value, "item", None)) for name, value in values.items())
    return {name: values[name] if item is None else item() for name, item in read}


def say_again(version: PromptVersion, new: NewVersion) -> tuple[str, ...]:
    """Return what a push of a prompt that is there already did, and what it did not do."""
    notes = [f"{version.ref} holds this prompt already"]
    if new.metrics:
        notes.append("its metrics were brought up to date")
    if new.aliases:
        notes.append(f"{', '.join(new.aliases)} now stands for it")
    kept = (("note", version.note, new.note), ("parent", version.parent, new.parent))
    notes += [
        f"its {name} stays {before!r}"
        for name, before, now in kept
        if now is not None and now != before
    ]
    return tuple(notes)


def render_record(version: PromptVersion, table: Digest, manifest: bytes) -> bytes:
    """Return what lies beside a version's objects, so that the database can be rebuilt from them.

    Args:
        version: The registered version.
        table: The digest of its base model's table of weights.
        manifest: Its manifest.
    """
    document = {
        "format": "promptreg.record/1",
        "task": version.task,
        "version": version.version,
        "base": {
            "fingerprint": str(version.base),
            "name": version.base_name,
            "table": str(table),
        },
        "digest": str(version.digest),
        "size": version.size,
        "manifest": manifest.decode(),
        "canary": None if version.canary is None else str(version.canary),
        "parent": version.parent,
        "note": version.note,
        "pushed_by": version.pushed_by,
        "pushed_at": version.pushed_at.isoformat(),
        "metrics": dict(version.metrics),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def render_result(result: Result, table: Digest) -> bytes:
    """Return what lies beside the objects about a result without a prompt, as ``render_record`` for a version.

    Args:
        result: The registered result.
        table: The digest of its base model's table of weights.
    """
    document = {
        "format": "promptreg.result/1",
        "task": result.task,
        "base": {
            "fingerprint": str(result.base),
            "name": result.base_name,
            "table": str(table),
        },
        "method": result.method,
        "hyperparameters": dict(result.hyperparameters),
        "metrics": dict(result.metrics),
        "recorded_by": result.recorded_by,
        "recorded_at": result.recorded_at.isoformat(),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
