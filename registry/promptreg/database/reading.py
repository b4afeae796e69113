"""Reading: rows become prompt versions, base models and events."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Connection, bindparam, or_, select
from sqlalchemy.engine import Row

from promptreg.bases import BaseModel
from promptreg.database.scalars import from_row
from promptreg.database.tables import (
    aliases,
    base_models,
    events,
    hyperparameters,
    joined,
    manifests,
    metrics,
    objects,
    parent,
    prompts,
    scalar_columns,
    tasks,
)
from promptreg.database.values import Event, Measurement
from promptreg.digests import Digest
from promptreg.errors import (
    AmbiguousReferenceError,
    BaseModelNotFoundError,
    ConflictError,
    PromptNotFoundError,
    TaskNotFoundError,
)
from promptreg.fingerprints import Fingerprint
from promptreg.prompts import Method, Placement, PromptVersion, Scalar, TaskType, Yanked

__all__ = [
    "base_row",
    "bases",
    "known_base",
    "load",
    "manifest",
    "measurements",
    "newest_events",
    "of_task",
    "task_id",
    "to_base",
]

_FINGERPRINT_PREFIX = re.compile(r"bfp1:[0-9a-f]{8,64}")
_IDS: BindParameter[Sequence[int]] = bindparam("ids", expanding=True)
# Made once, because to make a statement takes longer than to run it.
_VERSIONS = (
    select(
        prompts,
        tasks.c.name.label("task"),
        base_models.c.fingerprint,
        base_models.c.name.label("base_name"),
        objects.c.size,
        parent.label("parent"),
    )
    .select_from(joined())
    .where(prompts.c.id.in_(_IDS))
)
_MANIFEST = select(manifests.c.document).where(manifests.c.digest == bindparam("digest"))
_ALIASES = (
    select(aliases.c.prompt_id, aliases.c.name)
    .where(aliases.c.prompt_id.in_(_IDS))
    .order_by(aliases.c.name)
)
_HYPERPARAMETERS = (
    select(*scalar_columns(hyperparameters))
    .where(hyperparameters.c.prompt_id.in_(_IDS))
    .order_by(hyperparameters.c.name)
)
_METRICS = (
    select(*scalar_columns(metrics))
    .where(metrics.c.prompt_id.in_(_IDS), metrics.c.superseded_at.is_(None))
    .order_by(metrics.c.name)
)
_MEASUREMENTS = (
    select(metrics)
    .where(metrics.c.prompt_id == bindparam("prompt"))
    .order_by(metrics.c.name, metrics.c.id.desc())
)
_BASE_BY_NAME = select(base_models).where(base_models.c.name == bindparam("name"))
_BASE_BY_PREFIX = (
    select(base_models)
    .where(
        base_models.c.fingerprint >= bindparam("start"),
        base_models.c.fingerprint < bindparam("end"),
    )
    .order_by(base_models.c.id)
)
_TASK = select(tasks.c.id).where(tasks.c.name == bindparam("task"))


def load(connection: Connection, ids: Sequence[int]) -> list[PromptVersion]:
    """Return the versions of these rows of ``prompts``, in the order of ``ids``; four statements in all."""
    if not ids:
        return []
    of = {"ids": ids}
    rows = {row.id: row for row in connection.execute(_VERSIONS, of).all()}
    named: dict[int, list[str]] = {}
    for prompt, name in connection.execute(_ALIASES, of).all():
        named.setdefault(prompt, []).append(name)
    trained = _scalars(connection.execute(_HYPERPARAMETERS, of).all())
    scored = _scalars(connection.execute(_METRICS, of).all())
    return [
        _to_version(
            rows[each], tuple(named.get(each, ())), trained.get(each, {}), scored.get(each, {})
        )
        for each in ids
    ]


def task_id(connection: Connection, task: str) -> int:
    """Return the id of the row of ``task``.

    Raises:
        TaskNotFoundError: There is no such task; the nearest names are in the error.
    """
    found = connection.scalar(_TASK, {"task": task})
    if found is None:
        import difflib

        names = connection.scalars(select(tasks.c.name)).all()
        raise TaskNotFoundError(task, difflib.get_close_matches(task, names))
    return int(found)


def of_task(connection: Connection, column: ColumnElement[Any], task: str) -> ColumnElement[bool]:
    """Return whether ``column``, a task's id, is that of ``task``; ``*`` and ``?`` are wildcards.

    Raises:
        TaskNotFoundError: There is no such task.
    """
    wildcards = frozenset(index for index, each in enumerate(task) if each in "*?")
    if not wildcards:
        return column == task_id(connection, task)
    from promptreg.database.conditions import glob
    from promptreg.database.filters import Value

    dialect = connection.dialect.name
    matching = select(tasks.c.id).where(glob(tasks.c.name, Value(task, wildcards), dialect))
    return column.in_(matching)


def base_row(connection: Connection, name_or_fingerprint: str) -> Row[Any]:
    """Return the row of the base model of that name, or whose fingerprint begins so.

    Raises:
        BaseModelNotFoundError: There is none.
        AmbiguousReferenceError: Several fingerprints begin so.
    """
    if _FINGERPRINT_PREFIX.fullmatch(name_or_fingerprint):
        # Hex digits come before 'g', so this range is all that begins so.
        ends = {"start": name_or_fingerprint, "end": name_or_fingerprint + "g"}
        rows = connection.execute(_BASE_BY_PREFIX, ends).all()
    elif name_or_fingerprint.isprintable():
        rows = connection.execute(_BASE_BY_NAME, {"name": name_or_fingerprint}).all()
    else:
        rows = []  # no name has such characters, and PostgreSQL would not even hear the question
    if not rows:
        known = [str(base) for base in bases(connection)]
        raise BaseModelNotFoundError(name_or_fingerprint, known)
    if len(rows) > 1:
        candidates = [str(to_base(row)) for row in rows]
        remedy = "write more digits of the fingerprint"
        raise AmbiguousReferenceError(name_or_fingerprint, candidates, remedy)
    return rows[0]


def known_base(connection: Connection, base: BaseModel) -> BaseModel | None:
    """Return the registered base model that is ``base``, None if it is not there or has no name yet.

    Raises:
        ConflictError: The name of ``base`` is another base model's, or these weights have another name.
    """
    same = base_models.c.fingerprint == str(base.fingerprint)
    test = same if base.name is None else or_(same, base_models.c.name == base.name)
    rows = {row.fingerprint: row for row in connection.execute(select(base_models).where(test))}
    found = rows.pop(str(base.fingerprint), None)
    if rows:
        (other,) = rows.values()
        raise ConflictError(
            f"the name {base.name!r} is that of the base model {Fingerprint(other.fingerprint).short}…",
            f"it was to be that of {base.fingerprint.short}…",
            "choose another name",
        )
    if found is not None and base.name not in {None, found.name} and found.name is not None:
        raise ConflictError(
            f"the base model {base.fingerprint.short}… is registered as {found.name!r}",
            f"it was to be named {base.name!r}",
            "use the name that it has",
        )
    if found is None or base.name not in {None, found.name}:
        return None
    return to_base(found)


def bases(connection: Connection) -> list[BaseModel]:
    """Return all base models, in the order in which they were registered."""
    rows = connection.execute(select(base_models).order_by(base_models.c.id))
    return [to_base(row) for row in rows]


def to_base(row: Row[Any]) -> BaseModel:
    """Return the base model that ``row`` of ``base_models`` describes, without its table."""
    return BaseModel(
        fingerprint=Fingerprint(row.fingerprint),
        embedding=row.embedding,
        body=row.body,
        head=row.head,
        architecture=row.architecture,
        model_type=row.model_type,
        encoder_decoder=bool(row.encoder_decoder),
        token_dim=row.token_dim,
        vocab_size=row.vocab_size,
        num_layers=row.num_layers,
        key_value_dim=row.key_value_dim,
        parameters=row.parameters,
        dtype=row.dtype,
        name=row.name,
        source=row.source,
        revision=row.revision,
        tokenizer=_digest(row.tokenizer),
    )


def manifest(connection: Connection, version: PromptVersion) -> bytes:
    """Return the manifest of ``version``.

    Raises:
        PromptNotFoundError: It is of another database.
    """
    document = connection.scalar(_MANIFEST, {"digest": str(version.manifest)})
    if document is None:
        raise PromptNotFoundError(version.ref, "its manifest is not registered here")
    return str(document).encode()


def measurements(connection: Connection, prompt: int) -> list[Measurement]:
    """Return all that was ever recorded of the metrics of a row of ``prompts``: by name, the newest first."""
    return [
        Measurement(
            metric=row.name,
            value=from_row(row.kind, row.number, row.text, row.rest),
            by=row.recorded_by,
            at=row.recorded_at,
            superseded_at=row.superseded_at,
        )
        for row in connection.execute(_MEASUREMENTS, {"prompt": prompt})
    ]


def newest_events(connection: Connection, limit: int) -> list[Event]:
    """Return the last ``limit`` things that were done, the newest first."""
    rows = connection.execute(select(events).order_by(events.c.id.desc()).limit(limit))
    return [
        Event(at=row.at, by=row.by, action=row.action, subject=row.subject, detail=row.detail)
        for row in rows
    ]


def _scalars(rows: Iterable[Any]) -> dict[int, dict[str, Scalar]]:
    found: dict[int, dict[str, Scalar]] = {}
    for prompt, name, kind, number, text, rest in rows:
        found.setdefault(prompt, {})[name] = from_row(kind, number, text, rest)
    return found


def _to_version(
    row: Row[Any],
    names: tuple[str, ...],
    trained: dict[str, Scalar],
    scored: dict[str, Scalar],
) -> PromptVersion:
    yanked = None
    if row.yanked_at is not None:
        yanked = Yanked(when=row.yanked_at, reason=row.yank_reason)
    return PromptVersion(
        task=row.task,
        version=row.version,
        base=Fingerprint(row.fingerprint),
        base_name=row.base_name,
        digest=Digest(row.digest),
        size=row.size,
        manifest=Digest(row.manifest),
        canary=_digest(row.canary),
        method=Method(row.method),
        task_type=TaskType(row.task_type),
        placement=Placement(row.placement),
        num_virtual_tokens=row.num_virtual_tokens,
        token_dim=row.token_dim,
        init=row.init,
        parent=row.parent,
        note=row.note,
        pushed_by=row.pushed_by,
        pushed_at=row.pushed_at,
        yanked=yanked,
        aliases=names,
        hyperparameters=trained,
        metrics=scored,
    )


def _digest(text: str | None) -> Digest | None:
    return None if text is None else Digest(text)
