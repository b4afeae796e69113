"""The registry: the one place where the database and the objects meet."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from promptreg.canaries import Canary
from promptreg.connections import Connections
from promptreg.database import NewVersion, Page
from promptreg.digests import Digest
from promptreg.errors import (
    ConflictError,
    CorruptObjectError,
    InvalidValueError,
)
from promptreg.fitting import check_shape
from promptreg.names import Reference, check_alias, check_task
from promptreg.prompts import PromptVersion, PulledPrompt, Scalar, SoftPrompt, TaskType, Vote
from promptreg.pushing import (
    Pushed,
    check_facts,
    check_manner,
    check_result,
    check_words,
    complete,
    plain,
    render_record,
    render_result,
    say_again,
)

if TYPE_CHECKING:
    from promptreg.bases import BaseModel
    from promptreg.database.comparing import ComparablePrompt
    from promptreg.database.values import Measurement
    from promptreg.results import Result

__all__ = ["Registry"]


class Registry(Connections):
    """Trained soft prompts: what is registered about them, and their tensors.

    Safe to use from several threads; every process opens its own.
    """

    def push(
        self,
        prompt: SoftPrompt,
        *,
        task: str,
        base: "BaseModel | str",
        hyperparameters: Mapping[str, Scalar] | None = None,
        metrics: Mapping[str, Scalar] | None = None,
        aliases: Sequence[str] = (),
        template: str | None = None,
        labels: Sequence[str] = (),
        parent: str | None = None,
        note: str | None = None,
        canary: Canary | None = None,
    ) -> Pushed:
        """Register ``prompt`` as the next version of ``task``.

        The objects are stored before the row that names them: a crash between the two leaves objects that
        nothing names, never a row whose object is missing. The same prompt pushed to the same task and
        base again is the version that exists.

        Args:
            prompt: The soft prompt, as ``artifacts.read`` or the tuning gives it.
            task: The task's name; it is made if it is new.
            base: The base model: as ``from_files`` or ``from_module`` gives it, or a registered one's name
                or fingerprint.
            hyperparameters: Added to those that the prompt brings; the same name wins here.
            metrics: What it scored.
            aliases: Names to set on the version, such as ``prod``.
            template: The text around the input, with ``{text}`` where it goes.
            labels: The label words.
            parent: The reference of the version that it was started from.
            note: Free text.
            canary: What prompt and base give on a few inputs, from ``record_canary``.

        Raises:
            InvalidNameError: A name is outside the grammar.
            BaseModelNotFoundError: No such base model is registered.
            IncompatibleModelError: The prompt's shape does not fit the base model.
            InvalidArtifactError: A tensor breaks the format's rules (NaN, too large, …).
            ConflictError: The base model's name is taken by another base model.
            StoreError, DatabaseError: One of the two cannot be used; nothing was registered.
        """
        from promptreg.artifacts import dump_tensors
        from promptreg.manifests import manifest_bytes

        check_task(task)
        check_facts(aliases=aliases, labels=labels, note=note)
        known, table = self._known(base)
        prompt = complete(
            prompt,
            known,
            hyperparameters=hyperparameters or {},
            template=template,
            labels=labels,
        )
        check_manner(prompt)
        check_shape(prompt, known)
        parent_ref = None if parent is None else self.resolve(parent).ref
        tensors = dump_tensors(prompt.tensors)
        manifest = manifest_bytes(
            prompt, base=known.fingerprint, tensors=Digest.of(tensors), size=len(tensors)
        )
        evidence = canary.to_bytes() if canary is not None else None
        weights = None if known.table is None else known.table.to_bytes()
        # All objects before any row: a push that fails here has registered nothing, not even its base.
        pieces = [tensors, evidence, weights]
        self._threads.at_once(self._objects.put, [piece for piece in pieces if piece is not None])
        if known.table is not None:
            self._register_base(known, table)
        new = NewVersion(
            task=task,
            base=known.fingerprint,
            digest=Digest.of(tensors),
            size=len(tensors),
            manifest=manifest,
            canary=Digest.of(evidence) if evidence is not None else None,
            canary_size=len(evidence) if evidence is not None else None,
            method=prompt.method,
            task_type=prompt.task_type or TaskType.FEATURE_EXTRACTION,
            placement=prompt.placement,
            num_virtual_tokens=prompt.num_virtual_tokens,
            token_dim=prompt.token_dim,
            init=prompt.init,
            parent=parent_ref,
            note=note,
            by=self._by,
            hyperparameters=prompt.hyperparameters,
            metrics=plain(metrics or {}),
            aliases=tuple(aliases),
            # The manifest names the tensors' digest and the base, so it tells prompts apart.
            idempotency_key=str(Digest.of(manifest)),
        )
        version, created = self._database.register(new)
        # The version exists since the commit; its record may follow while the caller goes on.
        self._threads.later(
            self._write_record, version.ref, render_record(version, table, manifest)
        )
        notes = () if created else say_again(version, new)
        return Pushed(version=version, created=created, notes=notes)

    def push_ensemble(
        self,
        members: Sequence[str],
        *,
        task: str | None = None,
        vote: Vote | str = Vote.MAJORITY,
        base: str | None = None,
        metrics: Mapping[str, Scalar] | None = None,
        aliases: Sequence[str] = (),
        note: str | None = None,
    ) -> Pushed:
        """Register the ensemble of prompts that are registered for one task.

        It holds its members' tensors itself, each pinned to the version that its reference names now: it stays
        whole when an alias moves on or a member is yanked. It records no canary.

        Args:
            members: Their references, in order: ``sst2@3``, ``sst2@prod``.
            task: The task whose next version it is; the members' own unless another is named.
            vote: How they come to one answer: ``majority`` or ``mean``.
            base: The name or fingerprint of the base model at hand, where a reference needs one.
            metrics: What it scored.
            aliases: Names to set on the version, such as ``prod``.
            note: Free text.

        Raises:
            InvalidNameError: A name is outside the grammar.
            InvalidValueError: The members are too few, or one cannot be a member; or there is no such vote.
            NotFoundError: There is no such prompt, or its object is gone.
            AmbiguousReferenceError: A reference names several.
            ConflictError: The members differ in base model, task, placement, task type, template or labels.
            InvalidArtifactError: They are more tensors, or more bytes, than one prompt may have.
            CorruptObjectError: The stored bytes of a member are not those that were pushed.
            StoreError, DatabaseError: One of the two cannot be used; nothing was registered.
        """
        from promptreg.ensembles import combine

        check_words("the members", members)
        check_facts(aliases=aliases, labels=(), note=note)
        pulled = [self.pull(reference, base=base) for reference in members]
        prompt = combine(pulled, vote=vote)
        return self.push(
            prompt,
            task=pulled[0].version.task if task is None else task,
            base=str(pulled[0].base.fingerprint),
            metrics=metrics,
            aliases=aliases,
            note=note,
        )

    def pull(self, reference: str, *, base: str | None = None) -> PulledPrompt:
        """Return the prompt that ``reference`` names, every byte checked against its digest.

        Args:
            reference: ``sst2``, ``sst2@3``, ``sst2@prod`` or ``sha256:…``.
            base: The name or fingerprint of the base model at hand, where the reference needs one.

        Raises:
            NotFoundError: There is no such prompt, or its object is gone.
            AmbiguousReferenceError: There are several.
            CorruptObjectError: The stored bytes are not those that were pushed.
        """
        from promptreg.artifacts import load_tensors
        from promptreg.manifests import read_manifest

        version = self.resolve(reference, base=base)
        digests = [version.digest] + ([version.canary] if version.canary is not None else [])
        fetched = [self._threads.submit(self._fetch, digest) for digest in digests]
        # The database answers while the store does.
        manifest = self._database.manifest(version)
        known = self.base(str(version.base))
        data, *evidence = (each.result() for each in fetched)
        described = read_manifest(manifest, load_tensors(data), where=str(version.manifest))
        found = described.prompt
        if (described.tensors, described.base, found.method, found.num_virtual_tokens) != (
            version.digest,
            version.base,
            version.method,
            version.num_virtual_tokens,
        ):
            # Both are what their digests say, and yet they do not belong together: the row was altered.
            raise CorruptObjectError(
                str(version.digest), f"{described.tensors} in its manifest", str(self._database)
            )
        return PulledPrompt(
            version=version,
            prompt=described.prompt,
            base=known,
            canary=self._read_canary(version, *evidence),
        )

    def resolve(self, reference: str, *, base: str | None = None) -> PromptVersion:
        """Return the version that ``reference`` names.

        Raises:
            InvalidNameError: It is outside the grammar.
            NotFoundError: There is no such task, version, alias or digest.
            AmbiguousReferenceError: It names several.
            ConflictError: It names a version for another base model.
        """
        parsed = Reference.parse(reference)
        if base is None:
            return self._database.resolve(parsed)
        at_hand = self._database.base(base)[0]
        version = self._database.resolve(parsed, base=at_hand.fingerprint)
        if version.base != at_hand.fingerprint:
            raise ConflictError(
                f"{version.ref} is for the base model {version.base_name or version.base}",
                f"{at_hand} was asked for",
                "leave the base model out, or name a version that is for it",
            )
        return version

    def manifest(self, version: PromptVersion) -> Mapping[str, Any]:
        """Return what was registered of how to use ``version``: template, labels, source and more."""
        document: dict[str, Any] = json.loads(self._database.manifest(version))
        return document

    show = resolve

    def list(
        self,
        task: str | None = None,
        *,
        where: str | None = None,
        sort: str | None = None,
        limit: int = 50,
        after: str | None = None,
        yanked: bool = False,
    ) -> Page:
        """Return one page of versions, the newest first unless sorted otherwise.

        Args:
            task: Only this task's; ``*`` and ``?`` are wildcards.
            where: A filter, such as ``metric.accuracy > 0.9 and (hp.lr <= 0.3 or alias = prod)``.
            sort: A column, ``hp.NAME`` or ``metric.NAME``; with ``-`` in front, the largest first.
            limit: How many at most.
            after: Where the page before ended: its ``next``.
            yanked: Whether to show yanked versions too.

        Raises:
            InvalidFilterError: The filter, the sort key or ``after`` cannot be understood.
        """
        return self._database.page(
            task=task, where=where, sort=sort, limit=limit, after=after, yanked=yanked
        )

    def comparable(self, base: str) -> "tuple[BaseModel, tuple[ComparablePrompt, ...]]":
        """Return a base model, without its table, and the prompts on it that can be compared, the newest first.

        They are those of prompt tuning that were not yanked, all of them.

        Args:
            base: The name or fingerprint of a registered base model.

        Raises:
            BaseModelNotFoundError: There is none.
        """
        return self._database.comparable(base)

    def read_object(self, digest: Digest) -> bytes:
        """Return the bytes of an object, checked against its digest, without keeping a local copy.

        For reading thousands of objects once: the cache is for those that are pulled.

        Raises:
            ObjectNotFoundError: The store holds no such object.
            CorruptObjectError: The stored bytes are not those that were pushed.
        """
        return self._objects.get(digest)

    def set_alias(
        self, reference: str, name: str, *, base: str | None = None
    ) -> tuple[PromptVersion, PromptVersion | None]:
        """Let the alias ``name`` stand for the version that ``reference`` names.

        Returns:
            That version, and the one that the alias stood for before, if there was one.
        """
        check_alias(name)
        version = self.resolve(reference, base=base)
        before = self._database.set_alias(version, name, by=self._by)
        return self.resolve(version.ref), before

    def add_metrics(
        self, reference: str, metrics: Mapping[str, Scalar], *, base: str | None = None
    ) -> PromptVersion:
        """Record what the version that ``reference`` names scored. What was recorded before is kept.

        Returns:
            The version, with the newest value of each metric.
        """
        version = self.resolve(reference, base=base)
        return self._database.measure(version, plain(metrics), by=self._by)

    def add_all_metrics(
        self, metrics: Mapping[str, Mapping[str, Scalar]]
    ) -> "Sequence[PromptVersion]":
        """Record what several versions scored, as ``add_metrics`` does: all of it, or nothing.

        Args:
            metrics: The metrics of each version, by its reference.

        Returns:
            The versions, with the newest value of each metric.
        """
        measured = [(self.resolve(each), plain(found)) for each, found in metrics.items()]
        return self._database.measure_all(measured, by=self._by)

    def measurements(self, reference: str, *, base: str | None = None) -> "Sequence[Measurement]":
        """Return all that was ever recorded of the metrics of the version that ``reference`` names.

        Returns:
            Each value with who recorded it, when, and when another came: by name, the newest first.
        """
        return self._database.measurements(self.resolve(reference, base=base))

    def record_result(
        self,
        *,
        task: str,
        base: "BaseModel | str",
        method: str,
        hyperparameters: Mapping[str, Scalar] | None = None,
        metrics: Mapping[str, Scalar],
    ) -> "Result":
        """Record what a method without a soft prompt scored, beside the prompts of ``task``.

        The same result again, whatever time it took (``train_seconds``), is the one that exists.

        Args:
            task: The task's name; it is made if it is new.
            base: The base model, as ``push`` takes it; it is registered if it is new.
            method: ``prompt-design`` (with the hyperparameter ``shots``), ``model-tuning`` or another name.
            hyperparameters: How it was done.
            metrics: What it scored.

        Raises:
            InvalidNameError, InvalidValueError: A name or a value cannot be kept.
            BaseModelNotFoundError: No such base model is registered.
            ConflictError: The base model's name is taken by another base model.
            StoreError, DatabaseError: One of the two cannot be used.
        """
        hyperparameters, metrics = plain(hyperparameters or {}), plain(metrics)
        check_result(task, method, hyperparameters, metrics)
        known, table = self._known(base)
        if known.table is not None:
            self._objects.put(known.table.to_bytes())
            self._register_base(known, table)
        result = self._database.record_result(
            task=task,
            base=known.fingerprint,
            method=method,
            hyperparameters=hyperparameters,
            metrics=metrics,
            by=self._by,
        )
        name = f"{task}@result-{result.digest.hex}"
        self._threads.later(self._write_record, name, render_result(result, table))
        return result

    def results(self, task: str | None = None) -> "tuple[Result, ...]":
        """Return the results without a prompt, the newest first.

        Args:
            task: Only this task's; ``*`` and ``?`` are wildcards.

        Raises:
            TaskNotFoundError: There is no such task.
        """
        return self._database.results(task)

    def yank(self, reference: str, *, reason: str, base: str | None = None) -> PromptVersion:
        """Withdraw a version: it stays readable by its number, and nothing else leads to it."""
        if not reason.strip():
            raise InvalidValueError(
                "the reason", reason, "it is empty", "say why nobody should use it"
            )
        return self._database.yank(self.resolve(reference, base=base), reason=reason, by=self._by)

    def _read_canary(self, version: PromptVersion, data: bytes | None = None) -> Canary | None:
        if data is None:
            return None
        try:
            return Canary.from_bytes(data)
        except ValueError as error:
            raise CorruptObjectError(str(version.canary), str(error), str(self._objects)) from error
