"""Changes to what is registered: aliases, yanking, base models. Each function is part of one transaction."""

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, text, update

from promptreg.bases import BaseModel
from promptreg.database import reading, references
from promptreg.database.deeds import Deed, lock_task, use_objects
from promptreg.database.orm import AliasRow, BaseModelRow, PromptRow, TaskRow
from promptreg.database.scalars import check_text
from promptreg.digests import Digest
from promptreg.errors import ConflictError
from promptreg.prompts import PromptVersion

__all__ = ["Standing", "add_base", "move_alias", "set_alias", "standing", "yank"]


def set_alias(
    connection: Connection, version: PromptVersion, name: str, by: str
) -> PromptVersion | None:
    """Let the alias ``name`` stand for ``version``; return the version that it stood for before.

    Raises:
        PromptNotFoundError: The version is not registered here.
        ConflictError: It was yanked.
    """
    lock_task(connection, version.task)
    prompt_id = references.row_id(connection, version)
    before = move_alias(Deed.begin(connection, by), prompt_id, name)
    return None if before is None else reading.load(connection, [before])[0]


def yank(connection: Connection, version: PromptVersion, reason: str, by: str) -> PromptVersion:
    """Withdraw ``version`` and return it. One that was yanked already keeps its first reason.

    Raises:
        PromptNotFoundError: The version is not registered here.
    """
    lock_task(connection, version.task)
    prompt_id = references.row_id(connection, version)
    deed = Deed.begin(connection, by)
    done = connection.execute(
        update(PromptRow)
        .where(PromptRow.id == prompt_id, PromptRow.yanked_at.is_(None))
        .values(yanked_at=deed.at, yanked_by=by, yank_reason=reason)
    )
    if done.rowcount:
        deed.record("yank", version.ref, reason)
    return reading.load(connection, [prompt_id])[0]


def add_base(connection: Connection, base: BaseModel, table: Digest, by: str) -> BaseModel:
    """Register ``base``, or name the one that is registered without a name; return what is registered.

    Raises:
        ConflictError: Its name is another base model's, or these weights have another name.
        InvalidValueError: Its source or another text cannot be stored.
    """
    if connection.dialect.name == "postgresql":
        # Names are checked before they are given; pushes, which only refer to these rows, go on.
        connection.execute(text("LOCK TABLE base_models IN SHARE ROW EXCLUSIVE MODE"))
    known = reading.known_base(connection, base)
    if known is not None:
        return known
    values = _base_values(base)
    for column, value in values.items():
        check_text(f"the base model's {column}", str(value))
    deed = Deed.begin(connection, by)
    here = BaseModelRow.fingerprint == str(base.fingerprint)
    named = connection.execute(update(BaseModelRow).where(here).values(name=base.name))
    if not named.rowcount:
        size = None if base.table is None else len(base.table.to_bytes())
        use_objects(connection, {table: size})
        row = {"weight_table": str(table), "added_by": by, "added_at": deed.at}
        connection.execute(insert(BaseModelRow).values({**values, **row}))
    deed.record("add-base", str(base.fingerprint), base.name)
    return reading.to_base(reading.base_row(connection, str(base.fingerprint)))


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a registered version stands: its reference, the rows it belongs to, and why it was yanked."""

    ref: str
    task_id: int
    base_id: int
    yank_reason: str | None


def standing(deed: Deed, prompt_id: int) -> Standing:
    """Return where the version of this row stands."""
    task, version, task_id, base_id, yank_reason = deed.connection.execute(
        select(
            TaskRow.name,
            PromptRow.version,
            PromptRow.task_id,
            PromptRow.base_id,
            PromptRow.yank_reason,
        )
        .join_from(PromptRow, TaskRow)
        .where(PromptRow.id == prompt_id)
    ).one()
    return Standing(f"{task}@{version}", task_id, base_id, yank_reason)


def move_alias(deed: Deed, prompt_id: int, name: str) -> int | None:
    """Let ``name`` stand for a version; return the row of the version that it stood for before."""
    here = standing(deed, prompt_id)
    keys = {"task_id": here.task_id, "base_id": here.base_id, "name": name}
    alias = [getattr(AliasRow, key) == value for key, value in keys.items()]
    before = deed.connection.scalar(select(AliasRow.prompt_id).where(*alias))
    if before == prompt_id:
        return before
    if here.yank_reason is not None:
        found = f"{here.ref} was yanked ({here.yank_reason})"
        wanted = f"the alias {name!r} was to stand for it"
        raise ConflictError(found, wanted, "choose another version")
    if before is None:
        deed.connection.execute(insert(AliasRow).values(**keys, prompt_id=prompt_id))
        deed.record("alias", here.ref, name)
    else:
        deed.connection.execute(update(AliasRow).where(*alias).values(prompt_id=prompt_id))
        deed.record("alias", here.ref, f"{name}, which was {standing(deed, before).ref}")
    return before


def _base_values(base: BaseModel) -> dict[str, object]:
    return {
        "fingerprint": str(base.fingerprint),
        "name": base.name,
        "embedding": base.embedding,
        "body": base.body,
        "head": base.head,
        "architecture": base.architecture,
        "model_type": base.model_type,
        "encoder_decoder": base.encoder_decoder,
        "token_dim": base.token_dim,
        "vocab_size": base.vocab_size,
        "num_layers": base.num_layers,
        "key_value_dim": base.key_value_dim,
        "parameters": base.parameters,
        "dtype": base.dtype,
        "source": base.source,
        "revision": base.revision,
        "tokenizer": None if base.tokenizer is None else str(base.tokenizer),
    }
