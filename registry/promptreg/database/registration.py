"""Registration: the one transaction in which a prompt version comes to exist."""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select, update

from promptreg.database import reading, references
from promptreg.database.changes import move_alias, standing
from promptreg.database.deeds import Deed, keep_manifest, lock_task, use_objects
from promptreg.database.measuring import add_metrics, insert_metrics
from promptreg.database.orm import HyperparameterRow, PromptRow, TaskRow
from promptreg.database.scalars import to_row
from promptreg.database.values import NewVersion
from promptreg.digests import Digest
from promptreg.names import Reference
from promptreg.prompts import PromptVersion

__all__ = ["register"]

# A push waits for these: made once, because to make a statement takes longer than to run it.
_WITH_KEY = select(PromptRow.id).where(
    PromptRow.task_id == bindparam("task_id"), PromptRow.idempotency_key == bindparam("key")
)
_NEXT_VERSION = (
    update(TaskRow)
    .where(TaskRow.id == bindparam("task_id"))
    .values(next_version=TaskRow.next_version + 1)
    .returning(TaskRow.next_version - 1)
)
_INSERT_PROMPT = insert(PromptRow).returning(PromptRow.id)
_INSERT_HYPERPARAMETER = insert(HyperparameterRow)


def register(connection: Connection, new: NewVersion) -> tuple[PromptVersion, bool]:
    """Register ``new`` as the next version of its task, or return the one that has its key already.

    Raises:
        BaseModelNotFoundError: Its base model is not registered.
        TaskNotFoundError, PromptNotFoundError: Its parent is not registered.
        ConflictError: The version is there already and was yanked, so that no alias can stand for it.
    """
    base = reading.base_row(connection, str(new.base))
    parent = _parent(connection, new)
    task_id = lock_task(connection, new.task)
    deed = Deed.begin(connection, new.by)
    found = connection.scalar(_WITH_KEY, {"task_id": task_id, "key": new.idempotency_key})
    if found is None:
        number, prompt_id = _insert_version(deed, new, task_id, base.id, parent)
        insert_metrics(deed, prompt_id, new.metrics)
    else:
        prompt_id = found
        add_metrics(deed, prompt_id, new.metrics)
        _add_canary(deed, prompt_id, new)
    for name in sorted(set(new.aliases)):
        move_alias(deed, prompt_id, name)
    if found is None:
        return _registered(deed, new, number, base.name, parent), True
    return reading.load(connection, [prompt_id])[0], False


@dataclass(frozen=True, slots=True)
class _Parent:
    """The version that another one was started from."""

    id: int
    ref: str


def _parent(connection: Connection, new: NewVersion) -> _Parent | None:
    if new.parent is None:
        return None
    version = references.resolve(connection, Reference.parse(new.parent), new.base)
    return _Parent(references.row_id(connection, version), version.ref)


def _insert_version(
    deed: Deed, new: NewVersion, task_id: int, base_id: int, parent: _Parent | None
) -> tuple[int, int]:
    """Return the number of the new version and the id of its row."""
    canary = {} if new.canary is None else {new.canary: new.canary_size}
    use_objects(deed.connection, {new.digest: new.size, **canary})
    manifest = keep_manifest(deed.connection, new.manifest)
    number = deed.connection.execute(_NEXT_VERSION, {"task_id": task_id}).scalar_one()
    row = {
        "task_id": task_id,
        "version": number,
        "base_id": base_id,
        "digest": str(new.digest),
        "manifest": str(manifest),
        "canary": None if new.canary is None else str(new.canary),
        "method": new.method.value,
        "task_type": new.task_type.value,
        "placement": new.placement.value,
        "num_virtual_tokens": new.num_virtual_tokens,
        "token_dim": new.token_dim,
        "init": new.init,
        "parent_id": None if parent is None else parent.id,
        "note": new.note,
        "pushed_by": new.by,
        "pushed_at": deed.at,
        "idempotency_key": new.idempotency_key,
    }
    prompt_id = deed.connection.execute(_INSERT_PROMPT, row).scalar_one()
    trained = [
        {"prompt_id": prompt_id, "name": name, **to_row(value).columns()}
        for name, value in new.hyperparameters.items()
    ]
    if trained:
        deed.connection.execute(_INSERT_HYPERPARAMETER, trained)
    deed.record("push", f"{new.task}@{number}")
    return number, prompt_id


def _registered(
    deed: Deed, new: NewVersion, number: int, base_name: str | None, parent: _Parent | None
) -> PromptVersion:
    """Return the version that was just inserted, without asking for what is known."""
    return PromptVersion(
        task=new.task,
        version=number,
        base=new.base,
        base_name=base_name,
        digest=new.digest,
        size=new.size,
        manifest=Digest.of(new.manifest),
        canary=new.canary,
        method=new.method,
        task_type=new.task_type,
        placement=new.placement,
        num_virtual_tokens=new.num_virtual_tokens,
        token_dim=new.token_dim,
        init=new.init,
        parent=None if parent is None else parent.ref,
        note=new.note,
        pushed_by=new.by,
        pushed_at=deed.at,
        aliases=tuple(sorted(set(new.aliases))),
        hyperparameters=dict(sorted(new.hyperparameters.items())),
        metrics=dict(sorted(new.metrics.items())),
    )


def _add_canary(deed: Deed, prompt_id: int, new: NewVersion) -> None:
    """Give the version the canary of ``new``, if it has none: it was pushed without its base model at hand."""
    if new.canary is None:
        return
    use_objects(deed.connection, {new.canary: new.canary_size})
    lacking = update(PromptRow).where(PromptRow.id == prompt_id, PromptRow.canary.is_(None))
    if deed.connection.execute(lacking.values(canary=str(new.canary))).rowcount:
        deed.record("canary", standing(deed, prompt_id).ref)
