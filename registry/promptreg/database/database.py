"""The database: all that is registered, except the tensors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from promptreg.bases import BaseModel
from promptreg.database import pages, reading, references, schema, urls
from promptreg.database.engine import create_engine
from promptreg.database.scalars import check_scalars, check_text
from promptreg.database.transactions import Transactions
from promptreg.database.values import Event, Measurement, NewVersion, Page
from promptreg.digests import Digest
from promptreg.errors import CorruptObjectError, SchemaError
from promptreg.fingerprints import Fingerprint
from promptreg.names import Reference, check_alias, check_base_name, check_task
from promptreg.prompts import PromptVersion, Scalar
from promptreg.results import Result, check_method

if TYPE_CHECKING:
    from promptreg.database.comparing import ComparablePrompt

__all__ = ["Database"]


class Database:
    """All that is registered, except the tensors.

    Safe to use from several threads. After a fork the child uses connections of its own.

    Every method is one transaction, and raises ``DatabaseUnavailableError`` if the database cannot be reached,
    read or written, or ``StoreFullError`` if its disk is full; then nothing has happened.
    """

    def __init__(self, transactions: Transactions, name: str) -> None:
        self._transactions = transactions
        self._name = name

    def __str__(self) -> str:
        return self._name

    @classmethod
    def open(cls, url: str, *, upgrade: bool = False) -> Self:
        """Open the database at ``url``.

        Args:
            url: ``sqlite:///PATH``, a path, or ``postgresql://USER@HOST/NAME``.
            upgrade: Whether to make it, or bring its schema to this release's, if that is needed.

        Raises:
            ConfigurationError: ``url`` cannot be understood.
            MissingDependencyError: It names PostgreSQL, and psycopg is not installed.
            DatabaseUnavailableError: The database cannot be reached or opened, or is no database.
            SchemaError: Its schema is not this release's; the error names what mends it.
        """
        parsed = urls.parse(url)
        name = urls.display(parsed)
        database = cls(Transactions(create_engine(parsed), name), name)
        try:
            database._prepare(url, upgrade=upgrade)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, url: str, *, upgrade: bool) -> None:
        file = urls.file_of(urls.parse(url))
        missing = file is not None and not file.exists()
        current = None if missing else self._transactions.read(schema.current_revision)
        if upgrade and schema.is_older(current):
            schema.upgrade(url)
        elif current != schema.HEAD:
            newer = not schema.is_older(current)
            raise SchemaError(self._name, current, schema.HEAD, newer=newer)

    def close(self) -> None:
        """Give back the connections."""
        self._transactions.close()

    def add_base(self, base: BaseModel, *, table: Digest, by: str) -> BaseModel:
        """Register ``base``, whose table of weights is the object ``table``; return what is registered.

        The same weights again are the base model that is registered; if it has no name yet, it gets that of
        ``base``.

        Raises:
            ConflictError: The name is another base model's, or these weights have another name.
            InvalidNameError: The name is outside the grammar.
            InvalidValueError: The source or another text cannot be stored.
        """
        from promptreg.database import changes

        if base.name is not None:
            check_base_name(base.name)
        known = self._transactions.read(lambda connection: reading.known_base(connection, base))
        if known is not None:
            return known
        return self._transactions.write(
            lambda connection: changes.add_base(connection, base, table, by)
        )

    def base(self, name_or_fingerprint: str) -> tuple[BaseModel, Digest]:
        """Return a base model by its name or fingerprint, and the digest of its table of weights.

        Args:
            name_or_fingerprint: A name, or ``bfp1:`` and the first 8 hex digits or more.

        Raises:
            BaseModelNotFoundError: There is none.
            AmbiguousReferenceError: Several fingerprints begin so.
        """
        row = self._transactions.read(
            lambda connection: reading.base_row(connection, name_or_fingerprint)
        )
        return reading.to_base(row), Digest(row.weight_table)

    def bases(self) -> list[BaseModel]:
        """Return all base models, in the order in which they were registered."""
        return self._transactions.read(reading.bases)

    def comparable(self, base: str) -> "tuple[BaseModel, tuple[ComparablePrompt, ...]]":
        """Return a base model and its prompts of prompt tuning that were not yanked, the newest first.

        Args:
            base: A name, or ``bfp1:`` and the first 8 hex digits or more.

        Raises:
            BaseModelNotFoundError: There is none.
            AmbiguousReferenceError: Several fingerprints begin so.
        """
        from promptreg.database import comparing

        return self._transactions.read(lambda connection: comparing.comparable(connection, base))

    def table(self, base: Fingerprint) -> Digest:
        """Return the digest of the table of weights of ``base``.

        Raises:
            BaseModelNotFoundError: It is not registered.
        """
        return self.base(str(base))[1]

    def manifest(self, version: PromptVersion) -> bytes:
        """Return the manifest of ``version``.

        Raises:
            PromptNotFoundError: ``version`` is not registered here.
            CorruptObjectError: It is not the manifest that was registered.
        """
        data = self._transactions.read(lambda connection: reading.manifest(connection, version))
        actual = Digest.of(data)
        if actual != version.manifest:
            raise CorruptObjectError(str(version.manifest), str(actual), self._name)
        return data

    def register(self, new: NewVersion) -> tuple[PromptVersion, bool]:
        """Register ``new`` as the next version of its task.

        If the task has a version with its idempotency key, that one is returned instead: metrics that are
        new, or have another value now, are added to it, the aliases are set, and a canary is kept if it had
        none; all else stays as it was.

        Returns:
            The version, and whether it was registered now.

        Raises:
            BaseModelNotFoundError: Its base model is not registered.
            NotFoundError: Its parent is not registered.
            AmbiguousReferenceError: Its parent could be several.
            ConflictError: An alias was asked for, and the version is there already and was yanked.
        """
        from promptreg.database.registration import register

        return self._transactions.write(lambda connection: register(connection, new))

    def resolve(self, reference: Reference, *, base: Fingerprint | None = None) -> PromptVersion:
        """Return the version that ``reference`` stands for.

        A task alone stands for its newest version that is not yanked, for ``base`` if that is given. A number
        stands for that version, yanked or not. An alias stands for the version for ``base``; without one it
        must be unambiguous, and an alias of a yanked version is an error that says why. The beginning of a
        digest must be unambiguous too.

        Raises:
            TaskNotFoundError: There is no such task.
            PromptNotFoundError: There is no such version, alias or digest, or the alias's was yanked.
            AmbiguousReferenceError: It stands for several.
        """
        return self._transactions.read(
            lambda connection: references.resolve(connection, reference, base)
        )

    def page(
        self,
        *,
        task: str | None = None,
        where: str | None = None,
        sort: str | None = None,
        limit: int = 50,
        after: str | None = None,
        yanked: bool = False,
    ) -> Page:
        """Return some of the versions, the newest first unless sorted otherwise.

        Args:
            task: Only this task's; ``*`` and ``?`` are wildcards.
            where: A filter; ``filters`` tells how one is written. One that asks about ``yanked`` sees the
                yanked versions.
            sort: A column, ``hp.NAME`` or ``metric.NAME``; with ``-`` in front, the largest first. Versions
                that lack it come last.
            limit: How many at most, 1 to 1,000.
            after: The ``next`` of the page before.
            yanked: Whether to show yanked versions too.

        Raises:
            TaskNotFoundError: There is no such task.
            InvalidFilterError: The filter, the sort key or ``after`` cannot be understood.
            InvalidValueError: ``limit`` is outside of its bounds.
        """
        query = pages.Query(task=task, where=where, sort=sort, yanked=yanked)
        return self._transactions.read(
            lambda connection: pages.page(connection, query, limit=limit, after=after)
        )

    def set_alias(self, version: PromptVersion, name: str, *, by: str) -> PromptVersion | None:
        """Let the alias ``name`` stand for ``version``, and for no other of its task and base model.

        Returns:
            The version that it stood for before, if there was one.

        Raises:
            PromptNotFoundError: ``version`` is not registered here.
            ConflictError: It was yanked.
        """
        from promptreg.database import changes

        check_alias(name)
        check_text("the user", by)
        return self._transactions.write(
            lambda connection: changes.set_alias(connection, version, name, by)
        )

    def measure(
        self, version: PromptVersion, metrics: Mapping[str, Scalar], *, by: str
    ) -> PromptVersion:
        """Record metrics of ``version``: those that are new or have another value now. None is overwritten.

        Returns:
            The version, with the newest value of each metric.

        Raises:
            PromptNotFoundError: ``version`` is not registered here.
            InvalidNameError, InvalidValueError: A metric cannot be kept.
        """
        (measured,) = self.measure_all([(version, metrics)], by=by)
        return measured

    def measure_all(
        self, measured: Sequence[tuple[PromptVersion, Mapping[str, Scalar]]], *, by: str
    ) -> list[PromptVersion]:
        """Record metrics of several versions, as ``measure`` does: all of them, or none."""
        from promptreg.database import measuring

        for _, metrics in measured:
            check_scalars("metric", metrics)
        check_text("the user", by)
        return self._transactions.write(
            lambda connection: measuring.measure(connection, measured, by)
        )

    def measurements(self, version: PromptVersion) -> list[Measurement]:
        """Return all that was ever recorded of the metrics of ``version``: by name, the newest first.

        Raises:
            PromptNotFoundError: ``version`` is not registered here.
        """
        return self._transactions.read(
            lambda connection: reading.measurements(
                connection, references.row_id(connection, version)
            )
        )

    def record_result(
        self,
        *,
        task: str,
        base: Fingerprint,
        method: str,
        hyperparameters: Mapping[str, Scalar],
        metrics: Mapping[str, Scalar],
        by: str,
    ) -> Result:
        """Record what a method without a soft prompt scored on ``task``, which is made at need.

        The same result again, whatever time it took, is the one that exists.

        Raises:
            BaseModelNotFoundError: ``base`` is not registered.
            InvalidNameError, InvalidValueError: A name or a value cannot be kept.
        """
        from promptreg.database import results

        check_task(task)
        check_method(method)
        check_scalars("hyperparameter", hyperparameters)
        check_scalars("metric", metrics)
        check_text("the user", by)
        return self._transactions.write(
            lambda connection: results.record(
                connection,
                task=task,
                base=base,
                method=method,
                hyperparameters=hyperparameters,
                metrics=metrics,
                by=by,
            )
        )

    def results(self, task: str | None = None) -> tuple[Result, ...]:
        """Return the results without a prompt, the newest first.

        Args:
            task: Only this task's; ``*`` and ``?`` are wildcards.

        Raises:
            TaskNotFoundError: There is no such task.
            InvalidValueError: ``task`` holds what no text holds.
        """
        from promptreg.database import results

        check_text("the task", task or "")
        return self._transactions.read(lambda connection: results.all_results(connection, task))

    def yank(self, version: PromptVersion, *, reason: str, by: str) -> PromptVersion:
        """Withdraw ``version``: only its number and its digest lead to it from now on.

        Its aliases stay where they are, so that who asks for one hears why it no longer serves. A version
        that was yanked already keeps its first reason.

        Raises:
            PromptNotFoundError: ``version`` is not registered here.
        """
        from promptreg.database import changes

        check_text("the reason", reason)
        check_text("the user", by)
        return self._transactions.write(
            lambda connection: changes.yank(connection, version, reason, by)
        )

    def events(self, limit: int = 100) -> list[Event]:
        """Return the last ``limit`` things that were done, the newest first."""
        return self._transactions.read(lambda connection: reading.newest_events(connection, limit))
