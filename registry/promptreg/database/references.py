"""References: which version ``sst2``, ``sst2@3``, ``sst2@prod`` and ``sha256:…`` stand for."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, select, true

from promptreg.database import reading
from promptreg.database.tables import aliases, base_models, prompts, tasks
from promptreg.errors import AmbiguousReferenceError, PromptNotFoundError
from promptreg.fingerprints import Fingerprint
from promptreg.names import Reference
from promptreg.prompts import PromptVersion

__all__ = ["resolve", "row_id"]

_SHOWN = 6
"""One more than an error lists, so that it can say that there are more."""


def resolve(
    connection: Connection, reference: Reference, base: Fingerprint | None = None
) -> PromptVersion:
    """Return the version that ``reference`` stands for, given the base model at hand, if there is one.

    Raises:
        TaskNotFoundError: There is no such task.
        PromptNotFoundError: The task has no such version or alias, or the alias's version was yanked.
        AmbiguousReferenceError: It stands for several.
    """
    if reference.digest_prefix is not None:
        return _by_digest(connection, reference, base)
    task = reading.task_id(connection, reference.task or "")
    if reference.version is not None:
        return _by_version(connection, reference, task)
    if reference.alias is not None:
        return _by_alias(connection, reference, task, base)
    return _newest(connection, reference, task, base)


def row_id(connection: Connection, version: PromptVersion) -> int:
    """Return the id of the row of ``version``.

    Raises:
        PromptNotFoundError: It is of another database.
    """
    found = connection.scalar(
        select(prompts.c.id)
        .join_from(prompts, tasks, tasks.c.id == prompts.c.task_id)
        .where(tasks.c.name == version.task, prompts.c.version == version.version)
    )
    if found is None:
        raise PromptNotFoundError(version.ref, "it is not registered here")
    return int(found)


def _by_version(connection: Connection, reference: Reference, task: int) -> PromptVersion:
    test = and_(prompts.c.task_id == task, prompts.c.version == reference.version)
    found = _ids(connection, test)
    if not found:
        reason = f"task {reference.task!r} has no version {reference.version}"
        raise PromptNotFoundError(str(reference), reason, _versions(connection, reference, task))
    return reading.load(connection, found)[0]


def _newest(
    connection: Connection, reference: Reference, task: int, base: Fingerprint | None
) -> PromptVersion:
    test = and_(prompts.c.task_id == task, prompts.c.yanked_at.is_(None), _is_for(base))
    found = _ids(connection, test, limit=1)
    if not found:
        of_base = "" if base is None else f" for the base model {base.short}…"
        reason = f"it has no version{of_base} that is not yanked"
        raise PromptNotFoundError(str(reference), reason, _versions(connection, reference, task))
    return reading.load(connection, found)[0]


def _by_alias(
    connection: Connection, reference: Reference, task: int, base: Fingerprint | None
) -> PromptVersion:
    named = select(aliases.c.prompt_id).where(
        aliases.c.task_id == task, aliases.c.name == reference.alias
    )
    found = reading.load(connection, _ids(connection, and_(prompts.c.id.in_(named), _is_for(base))))
    if not found:
        of_base = "" if base is None else f" for the base model {base.short}…"
        reason = f"task {reference.task!r} has no alias {reference.alias!r}{of_base}"
        names = connection.scalars(
            select(aliases.c.name).distinct().where(aliases.c.task_id == task).order_by("name")
        )
        known = [f"{reference.task}@{name}" for name in names]
        known = known or _versions(connection, reference, task)
        raise PromptNotFoundError(str(reference), reason, known)
    if len(found) > 1:
        remedy = "name the base with --base"
        raise AmbiguousReferenceError(str(reference), _candidates(found), remedy)
    (version,) = found
    if version.yanked is not None:
        # The alias stays where it is, so that who relies on it hears why it no longer serves.
        reason = f"{version.ref} was yanked ({version.yanked.reason})"
        raise PromptNotFoundError(str(reference), reason, _versions(connection, reference, task))
    return version


def _by_digest(
    connection: Connection, reference: Reference, base: Fingerprint | None
) -> PromptVersion:
    start = str(reference)
    # Hex digits come before 'g', so this range is all that begins so.
    test = and_(prompts.c.digest >= start, prompts.c.digest < start + "g", _is_for(base))
    found = reading.load(connection, _ids(connection, test, limit=_SHOWN))
    if not found:
        raise PromptNotFoundError(start, "no registered prompt's digest begins so")
    if len(found) > 1:
        remedy = "name it by its task and version"
        raise AmbiguousReferenceError(start, _candidates(found), remedy)
    return found[0]


def _is_for(base: Fingerprint | None) -> ColumnElement[bool]:
    if base is None:
        return true()
    known = select(base_models.c.id).where(base_models.c.fingerprint == str(base))
    return prompts.c.base_id == known.scalar_subquery()


def _ids(
    connection: Connection, test: ColumnElement[bool], limit: int | None = None
) -> Sequence[int]:
    statement = select(prompts.c.id).where(test).order_by(prompts.c.id.desc()).limit(limit)
    return connection.scalars(statement).all()


def _versions(connection: Connection, reference: Reference, task: int) -> list[str]:
    """Return references of the newest versions that are not yanked."""
    statement = (
        select(prompts.c.version)
        .where(prompts.c.task_id == task, prompts.c.yanked_at.is_(None))
        .order_by(prompts.c.version.desc())
        .limit(_SHOWN)
    )
    return [f"{reference.task}@{version}" for version in connection.scalars(statement)]


def _candidates(versions: Sequence[PromptVersion]) -> list[str]:
    return [_candidate(version) for version in versions]


def _candidate(version: PromptVersion) -> str:
    base = f"{version.base.short}…"
    named = base if version.base_name is None else f"{version.base_name} ({base})"
    return f"{version.ref} for {named}" + (", yanked" if version.yanked else "")
