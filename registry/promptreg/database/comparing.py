"""What a comparison of thousands of prompts needs to know of each, and no more."""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from promptreg.bases import BaseModel
from promptreg.database import reading
from promptreg.database.tables import prompts, tasks
from promptreg.digests import Digest
from promptreg.prompts import Method

__all__ = ["ComparablePrompt", "comparable"]

_COMPARABLE = (
    select(tasks.c.name, prompts.c.version, prompts.c.digest)
    .join_from(prompts, tasks, tasks.c.id == prompts.c.task_id)
    .where(
        prompts.c.base_id == bindparam("base"),
        prompts.c.method == Method.PROMPT_TUNING.value,
        prompts.c.yanked_at.is_(None),
    )
    .order_by(prompts.c.id.desc())
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparablePrompt:
    """A prompt version that others can be compared with.

    Attributes:
        task: The task that it is for.
        version: Its number in that task.
        digest: The digest of its tensors' object.
    """

    task: str
    version: int
    digest: Digest

    @property
    def ref(self) -> str:
        """What a person writes to name it: ``sst2@3``."""
        return f"{self.task}@{self.version}"


def comparable(connection: Connection, base: str) -> tuple[BaseModel, tuple[ComparablePrompt, ...]]:
    """Return the base model of that name or fingerprint, and its prompts of prompt tuning, the newest first.

    Yanked ones are left out.

    Raises:
        BaseModelNotFoundError: There is no such base model.
        AmbiguousReferenceError: Several fingerprints begin so.
    """
    found = reading.base_row(connection, base)
    rows = connection.execute(_COMPARABLE, {"base": found.id})
    return reading.to_base(found), tuple(
        ComparablePrompt(task=task, version=version, digest=Digest(digest))
        for task, version, digest in rows
    )
