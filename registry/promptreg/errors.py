"""Every error that promptreg raises on purpose.

* PromptregError
  * NotFoundError (also LookupError)
    - TaskNotFoundError
    - PromptNotFoundError
    - BaseModelNotFoundError
    - ObjectNotFoundError
  * InvalidNameError (also ValueError)
  * InvalidValueError (also ValueError)
  * InvalidFilterError (also ValueError)
  * AmbiguousReferenceError
  * ConflictError
  * ArtifactError (also ValueError)
    - UnknownFormatError
    - PickleRefusedError
    - InvalidArtifactError
    - ConversionError
    - DestinationError
  * InvalidDataError (also ValueError)
  * BaseModelError
    - UnreadableBaseModelError
    - LossyBaseModelError
    - AmbiguousWeightsError
  * IncompatibleModelError
  * CanaryError
  * AttachError
  * NonFiniteError
  * TuningError
  * CorruptObjectError
  * StoreError
    - StoreUnavailableError (also ConnectionError)
    - StoreFullError (also OSError)
    - ObjectTooLargeError (also ValueError)
  * DatabaseError
    - DatabaseUnavailableError (also ConnectionError)
    - SchemaError
  * ConfigurationError (also ValueError)
  * ClosedError
  * MissingDependencyError (also ImportError)

Each keeps its facts as fields and builds its message from them: what was found, what was wanted, and the
command or argument that mends it. Fields go to ``super().__init__``, so every error pickles.
"""

from collections.abc import Sequence

__all__ = [
    "AmbiguousReferenceError",
    "AmbiguousWeightsError",
    "ArtifactError",
    "AttachError",
    "BaseModelError",
    "BaseModelNotFoundError",
    "CanaryError",
    "ClosedError",
    "ConfigurationError",
    "ConflictError",
    "ConversionError",
    "CorruptObjectError",
    "DatabaseError",
    "DatabaseUnavailableError",
    "DestinationError",
    "IncompatibleModelError",
    "InvalidArtifactError",
    "InvalidDataError",
    "InvalidFilterError",
    "InvalidNameError",
    "InvalidValueError",
    "LossyBaseModelError",
    "MissingDependencyError",
    "NonFiniteError",
    "NotFoundError",
    "ObjectNotFoundError",
    "ObjectTooLargeError",
    "PickleRefusedError",
    "PromptNotFoundError",
    "PromptregError",
    "SchemaError",
    "StoreError",
    "StoreFullError",
    "StoreUnavailableError",
    "TaskNotFoundError",
    "TuningError",
    "UnknownFormatError",
    "UnreadableBaseModelError",
]


class PromptregError(Exception):
    """The root of the tree: catch it to catch all that promptreg raises on purpose."""


class NotFoundError(PromptregError, LookupError):
    """Something was named that is not there."""


class TaskNotFoundError(NotFoundError):
    """No task has that name."""

    def __init__(self, task: str, known: Sequence[str] = ()) -> None:
        super().__init__(task, known)
        self.task = task
        self.known = tuple(known)

    def __str__(self) -> str:
        nearest = f" (did you mean {_choice(self.known)}?)" if self.known else ""
        return f"no task is named {self.task!r}{nearest}; 'promptreg list' shows those that are"


class PromptNotFoundError(NotFoundError):
    """The task is there, the version or alias is not; or no prompt has that digest."""

    def __init__(self, reference: str, reason: str, known: Sequence[str] = ()) -> None:
        super().__init__(reference, reason, known)
        self.reference = reference
        self.reason = reason
        self.known = tuple(known)

    def __str__(self) -> str:
        have = f"; there is {_choice(self.known)}" if self.known else ""
        return f"no prompt is {self.reference!r}: {self.reason}{have}"


class BaseModelNotFoundError(NotFoundError):
    """No base model is registered by that name or fingerprint."""

    def __init__(self, base: str, known: Sequence[str] = ()) -> None:
        super().__init__(base, known)
        self.base = base
        self.known = tuple(known)

    def __str__(self) -> str:
        have = f" (registered: {_choice(self.known)})" if self.known else ""
        return (
            f"no base model is registered as {self.base!r}, and no directory is there either{have}; "
            "register one with 'promptreg base add DIRECTORY --name NAME'"
        )


class ObjectNotFoundError(NotFoundError):
    """The store holds no object of that digest."""

    def __init__(self, digest: str, store: str) -> None:
        super().__init__(digest, store)
        self.digest = digest
        self.store = store

    def __str__(self) -> str:
        return (
            f"the object store {self.store} holds no object {self.digest}; "
            "check PROMPTREG_OBJECTS_URL, or restore the object from a backup"
        )


class InvalidNameError(PromptregError, ValueError):
    """A name or reference is outside the grammar."""

    def __init__(self, kind: str, name: str, rule: str) -> None:
        super().__init__(kind, name, rule)
        self.kind = kind
        self.name = name
        self.rule = rule

    def __str__(self) -> str:
        shown = self.name if len(self.name) <= _LONGEST_SHOWN else self.name[:_LONGEST_SHOWN] + "…"
        return f"{shown!r} is no {self.kind}; wanted: {self.rule}"


class InvalidValueError(PromptregError, ValueError):
    """A value cannot be registered."""

    def __init__(self, what: str, value: str, reason: str, remedy: str) -> None:
        super().__init__(what, value, reason, remedy)
        self.what = what
        self.value = value
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        shown = (
            self.value if len(self.value) <= _LONGEST_SHOWN else self.value[:_LONGEST_SHOWN] + "…"
        )
        return f"{self.what} cannot be {shown!r}: {self.reason}; {self.remedy}"


class InvalidFilterError(PromptregError, ValueError):
    """A filter or sort key cannot be understood."""

    def __init__(
        self, expression: str, reason: str, position: int | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(expression, reason, position, remedy)
        self.remedy = remedy
        self.expression = expression
        self.reason = reason
        self.position = position

    def __str__(self) -> str:
        where = "" if self.position is None else f" at character {self.position + 1}"
        return (
            f"cannot read {self.expression!r}{where}: {self.reason}; "
            f"{self.remedy or 'a filter reads like: ' + _FILTER}"
        )


class AmbiguousReferenceError(PromptregError):
    """A reference, or the name of a base model, stands for more than one thing."""

    def __init__(self, reference: str, candidates: Sequence[str], remedy: str) -> None:
        super().__init__(reference, candidates, remedy)
        self.reference = reference
        self.candidates = tuple(candidates)
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.reference!r} could be {_choice(self.candidates)}; {self.remedy}"


class ConflictError(PromptregError):
    """What is asked for contradicts what is registered."""

    def __init__(self, found: str, wanted: str, remedy: str) -> None:
        super().__init__(found, wanted, remedy)
        self.found = found
        self.wanted = wanted
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.found}, but {self.wanted}; {self.remedy}"


class ArtifactError(PromptregError, ValueError):
    """A soft prompt cannot be read from a file or written to one."""


class UnknownFormatError(ArtifactError):
    """What lies there is in no format that promptreg reads."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path = path
        self.found = found

    def __str__(self) -> str:
        return (
            f"{self.path} is no soft prompt: {self.found}; promptreg reads a PEFT directory, "
            "a .safetensors file and a T5X .npy file"
        )


class PickleRefusedError(ArtifactError):
    """The file is a pickle, which runs code when it is loaded."""

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path = path
        self.found = found

    def __str__(self) -> str:
        return (
            f"{self.path} is {self.found}, and loading a pickle runs whatever code is in it; if you "
            "trust where it came from, convert it where it was made: load it there and save it with "
            "safetensors.torch.save_file, or PEFT's save_pretrained(..., safe_serialization=True)"
        )


class InvalidArtifactError(ArtifactError):
    """The format is known, the content breaks its rules."""

    def __init__(self, path: str, reason: str, remedy: str = "") -> None:
        super().__init__(path, reason, remedy)
        self.path = path
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")


class ConversionError(ArtifactError):
    """The prompt cannot be written in the format asked for without losing what makes it work."""

    def __init__(self, wanted: str, reason: str, remedy: str) -> None:
        super().__init__(wanted, reason, remedy)
        self.wanted = wanted
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot write this prompt as {self.wanted}: {self.reason}; {self.remedy}"


class DestinationError(ArtifactError):
    """Nothing can be written where the prompt was to go."""

    def __init__(self, destination: str, reason: str, remedy: str) -> None:
        super().__init__(destination, reason, remedy)
        self.destination = destination
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot write to {self.destination}: {self.reason}; {self.remedy}"


class InvalidDataError(PromptregError, ValueError):
    """Examples cannot be learned from or measured on as they are.

    Attributes:
        path: Their file.
        line: Which line, from 1; None if it is the whole file.
    """

    def __init__(self, path: str, line: int | None, reason: str, remedy: str) -> None:
        super().__init__(path, line, reason, remedy)
        self.path = path
        self.line = line
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}, line {self.line}"
        return f"{where}: {self.reason}; {self.remedy}"


class BaseModelError(PromptregError):
    """A base model cannot be fingerprinted."""


class UnreadableBaseModelError(BaseModelError):
    """The directory does not hold a base model whose weights can be read."""

    def __init__(self, base: str, reason: str, remedy: str) -> None:
        super().__init__(base, reason, remedy)
        self.base = base
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"cannot read a base model from {self.base}: {self.reason}; {self.remedy}"


class LossyBaseModelError(BaseModelError):
    """The module's weights are quantised, so they are not the base model's weights."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found

    def __str__(self) -> str:
        return (
            f"this model is {self.found}: its weights are no longer the base model's, so they prove "
            "nothing; load it without quantisation, or attach with policy='canary', which replays "
            "recorded outputs instead"
        )


class AmbiguousWeightsError(BaseModelError):
    """The files alone do not tell what weights will run."""

    def __init__(self, base: str, reason: str) -> None:
        super().__init__(base, reason)
        self.base = base
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the files in {self.base} do not tell which weights will run: {self.reason}; load the "
            "model and fingerprint it live with promptreg.from_module(model)"
        )


class IncompatibleModelError(PromptregError):
    """The model at hand is not the base model that the prompt was trained on."""

    def __init__(
        self,
        expected: str,
        actual: str,
        verdict: str,
        differing: Sequence[str] = (),
        more: int = 0,
        remedy: str = "load the base model that the prompt names",
    ) -> None:
        super().__init__(expected, actual, verdict, differing, more, remedy)
        self.expected = expected
        self.actual = actual
        self.verdict = verdict
        self.differing = tuple(differing)
        self.more = more
        self.remedy = remedy

    def __str__(self) -> str:
        tensors = ""
        if self.differing:
            rest = f" and {self.more} more" if self.more else ""
            tensors = f"; the first tensors that differ: {', '.join(self.differing)}{rest}"
        return (
            f"this prompt was trained on {self.expected}, but this model is {self.actual} "
            f"({self.verdict}){tensors}; {self.remedy}"
        )


class CanaryError(PromptregError):
    """The recorded outputs of prompt and base did not come back, or none were recorded."""

    def __init__(self, reference: str, reason: str, remedy: str) -> None:
        super().__init__(reference, reason, remedy)
        self.reference = reference
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"the canary of {self.reference} failed: {self.reason}; {self.remedy}"


class AttachError(PromptregError):
    """The prompt and the model fit, but cannot be used together in that way."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


class NonFiniteError(PromptregError):
    """Some rows of a batch got outputs that are no numbers; the others are as they should be.

    Attributes:
        rows: Which rows.
        prompts: The name of each one's prompt, None for the bare base model.
        output: What the batch gave: of use for the other rows.
    """

    def __init__(
        self, rows: Sequence[int], prompts: Sequence[str | None], output: object = None
    ) -> None:
        super().__init__(rows, prompts, output)
        self.rows = tuple(rows)
        self.prompts = tuple(prompts)
        self.output = output

    def __str__(self) -> str:
        listed = _choice([f"{row}" for row in self.rows])
        names = dict.fromkeys(name or "the bare base model" for name in self.prompts)
        return (
            f"the outputs of row {listed} are not finite, with {_choice(list(names))}; load the base model "
            "in a wider dtype, or push a prompt with smaller numbers; the error holds what the others got"
        )


class TuningError(PromptregError):
    """A prompt cannot be trained as asked for, or was trained to no good."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


class CorruptObjectError(PromptregError):
    """The bytes of an object are not those that its digest names."""

    def __init__(self, digest: str, actual: str, store: str) -> None:
        super().__init__(digest, actual, store)
        self.digest = digest
        self.actual = actual
        self.store = store

    def __str__(self) -> str:
        return (
            f"the object {self.digest} in {self.store} has other bytes: they hash to {self.actual}; "
            "nothing was written; restore the object from a backup, or push the prompt again"
        )


class StoreError(PromptregError):
    """The object store did not do what was asked."""


class StoreUnavailableError(StoreError, ConnectionError):
    """The object store cannot be reached, read or written."""

    def __init__(self, store: str, reason: str, remedy: str = "") -> None:
        super().__init__(store, reason, remedy)
        self.store = store
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        remedy = self.remedy or "check PROMPTREG_OBJECTS_URL and the store's credentials"
        return f"the object store {self.store} cannot be used: {self.reason}; {remedy}"


class StoreFullError(StoreError, OSError):
    """There is no room left; what was half written has been removed."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.store = store
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"{self.store} is full: {self.reason}; nothing half written was left behind; "
            "free some space and run the command again"
        )


class ObjectTooLargeError(StoreError, ValueError):
    """An object is larger than any that promptreg stores."""

    def __init__(self, digest: str, store: str, limit: int) -> None:
        super().__init__(digest, store, limit)
        self.digest = digest
        self.store = store
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the object {self.digest} has more than the {self.limit:,} bytes that {self.store} takes "
            "as one; a soft prompt has a few megabytes: store its tensors, not the model's"
        )


class DatabaseError(PromptregError):
    """The database did not do what was asked."""


class DatabaseUnavailableError(DatabaseError, ConnectionError):
    """The database cannot be reached, opened or written."""

    def __init__(self, database: str, reason: str, remedy: str = "") -> None:
        super().__init__(database, reason, remedy)
        self.database = database
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        remedy = self.remedy or "check PROMPTREG_DATABASE_URL"
        return f"the database {self.database} cannot be used: {self.reason}; {remedy}"


class SchemaError(DatabaseError):
    """The database's schema is not the one that this release of promptreg needs."""

    def __init__(self, database: str, current: str | None, required: str, *, newer: bool) -> None:
        super().__init__(database, current, required, newer)
        self.database = database
        self.current = current
        self.required = required
        self.newer = newer

    def __reduce__(self) -> tuple[object, ...]:
        return _schema_error, (self.database, self.current, self.required, self.newer)

    def __str__(self) -> str:
        found = f"schema {self.current}" if self.current else "no schema yet"
        remedy = (
            "it was made by a newer release: upgrade promptreg itself"
            if self.newer
            else "run 'promptreg upgrade'"
        )
        return (
            f"the database {self.database} has {found}, and this release needs {self.required}; "
            f"{remedy}"
        )


class ConfigurationError(PromptregError, ValueError):
    """A setting cannot be understood."""

    def __init__(self, setting: str, value: str, reason: str, remedy: str) -> None:
        super().__init__(setting, value, reason, remedy)
        self.setting = setting
        self.value = value
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.setting} {self.value!r}: {self.reason}; {self.remedy}"


class ClosedError(PromptregError):
    """A registry was used after it was closed."""

    def __init__(self, registry: str) -> None:
        super().__init__(registry)
        self.registry = registry

    def __str__(self) -> str:
        return f"the registry at {self.registry} was closed; open another one with Registry.open"


class MissingDependencyError(PromptregError, ImportError):
    """The step needs a package of an extra that is not installed."""

    def __init__(self, package: str, extra: str, step: str) -> None:
        super().__init__(package, extra, step)
        self.package = package
        self.extra = extra
        self.step = step

    def __str__(self) -> str:
        return (
            f"{self.step} needs {self.package}, which is not installed; "
            f"run pip install '.[{self.extra}]' in the checkout"
        )


_LONGEST_SHOWN = 80
_FILTER = "metric.accuracy > 0.9 and (hp.lr <= 0.3 or alias = prod)"


def _schema_error(database: str, current: str | None, required: str, newer: bool) -> SchemaError:
    return SchemaError(database, current, required, newer=newer)


def _choice(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, …" if len(names) > most else shown
