"""What a registry is made of: its database, its object store, its cache, its base models, and who uses them."""

import getpass
import logging
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from promptreg.database import Database
from promptreg.digests import Digest
from promptreg.errors import ClosedError, CorruptObjectError, StoreError
from promptreg.fingerprints import WeightTable
from promptreg.names import check_base_name
from promptreg.settings import Locations, cache_directory
from promptreg.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from promptreg.bases import BaseModel
    from promptreg.objects import ObjectCache, ObjectStore

__all__ = ["Connections"]

_LOG = logging.getLogger(__name__)


class Connections:
    """The places of one registry, opened when they are needed, and the base models that it knows.

    What is done with prompts is for ``Registry``, which is one.
    """

    def __init__(
        self,
        database: Database,
        objects: "ObjectStore | Callable[[], ObjectStore]",
        *,
        cache: "Path | None" = None,
        user: str | None = None,
    ) -> None:
        self._opened = database
        self._open_objects = objects
        self._cache_directory = cache
        self._user = user
        self._tables: dict[Digest, WeightTable] = {}
        self._threads = Threads()
        self._closed = False

    def __str__(self) -> str:
        return str(self._opened)

    @classmethod
    def open(cls, database_url: str | None = None, objects_url: str | None = None) -> Self:
        """Open the registry at the two URLs, those of the environment, or the user's own.

        The user's own (no URL and no ``PROMPTREG_DATABASE_URL``) is made and upgraded at need; any other
        database is upgraded by ``Registry.upgrade`` or ``promptreg upgrade``. The object store is opened
        when it is first needed, so listing never waits for it.

        Args:
            database_url: ``sqlite:///PATH``, a path, or ``postgresql://HOST/NAME``.
            objects_url: A path, ``file://PATH``, or ``s3://BUCKET/PREFIX?endpoint=URL``.

        Raises:
            ConfigurationError: A URL cannot be understood.
            DatabaseUnavailableError: The database cannot be reached.
            SchemaError: The database's schema is not this release's.
        """
        places = Locations.find(database_url, objects_url)
        database = Database.open(places.database, upgrade=places.embedded)

        def open_objects() -> "ObjectStore":
            from promptreg.objects import open_store

            return open_store(places.objects)

        return cls(database, open_objects, cache=cache_directory() / "objects")

    @staticmethod
    def upgrade(database_url: str | None = None) -> tuple[str | None, str]:
        """Bring the database's schema to this release's; return the revision before and after."""
        from promptreg.database import upgrade

        return upgrade(Locations.find(database_url).database)

    def flush(self) -> None:
        """Return when the record of everything that was pushed here lies beside its objects."""
        self._threads.flush()

    def close(self) -> None:
        """Flush, then give back all connections."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        self._threads.close()
        if "_objects" in self.__dict__:
            self._objects.close()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_base(self, base: "BaseModel") -> "BaseModel":
        """Register a base model. The same weights again are the one that is registered.

        Raises:
            ConflictError: Its name is another base model's, or these weights have another name.
        """
        known, table = self._known(base)
        if base.table is None:
            return self.base(str(base.fingerprint))
        self._objects.put(base.table.to_bytes())
        return self._register_base(known, table)

    def _known(self, base: "BaseModel | str") -> "tuple[BaseModel, Digest]":
        """Return a base model and the digest of its table; without a table at hand, as registered."""
        database = self._database  # a closed registry says so before anything is stored
        if isinstance(base, str):
            return database.base(base)
        if base.name is not None:
            check_base_name(base.name)
        if base.table is None:
            return database.base(str(base.fingerprint))
        return base, Digest.of(base.table.to_bytes())

    def _register_base(self, base: "BaseModel", table: Digest) -> "BaseModel":
        """Add the row of a base model whose table of weights is stored."""
        if base.table is not None:
            self._tables[table] = base.table
        return replace(self._database.add_base(base, table=table, by=self._by), table=base.table)

    def base(self, base: str) -> "BaseModel":
        """Return the registered base model of that name or fingerprint, with its table of weights.

        Raises:
            BaseModelNotFoundError: There is none.
        """
        found, digest = self._database.base(base)
        if digest not in self._tables:
            data = self._fetch(digest)
            try:
                self._tables[digest] = WeightTable.from_bytes(data)
            except ValueError as error:
                raise CorruptObjectError(str(digest), str(error), str(self._objects)) from error
        try:
            return replace(found, table=self._tables[digest])
        except ValueError as error:  # another base model's table: the row was altered
            raise CorruptObjectError(str(digest), str(error), str(self._opened)) from error

    def bases(self) -> "Sequence[BaseModel]":
        """Return all registered base models, without their tables."""
        return self._database.bases()

    @cached_property
    def _objects(self) -> "ObjectStore":
        return self._open_objects() if callable(self._open_objects) else self._open_objects

    @cached_property
    def _cache(self) -> "ObjectCache | None":
        if self._cache_directory is None:
            return None
        from promptreg.objects import ObjectCache

        return ObjectCache(self._cache_directory)

    @cached_property
    def _by(self) -> str:
        if self._user is not None:
            return self._user
        try:
            return getpass.getuser()
        except (OSError, KeyError):  # no such user in the password database, as in bare containers
            return "unknown"

    def _fetch(self, digest: Digest) -> bytes:
        if self._cache is None:
            return self._objects.get(digest)
        return self._cache.get(digest, self._objects.get)

    @property
    def _database(self) -> Database:
        if self._closed:
            raise ClosedError(str(self._opened))
        return self._opened

    def _write_record(self, name: str, record: bytes) -> None:
        """Keep a description beside the objects, so that the database can be rebuilt from them."""
        try:
            self._objects.put_record(f"{name}.json", record)
        except StoreError as error:
            _LOG.warning("%s is registered without its record: %s", name, error)
