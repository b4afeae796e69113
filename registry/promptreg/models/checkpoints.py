"""Checkpoints: which tensors of the files make which weight of a model, as transformers would load them.

transformers renames keys on load (a prefix added or removed, ``gamma`` to ``weight``) and rewrites tensors
(the experts of a mixture become one). The same renamings and the same operations are used here, those of the
installed transformers, on the mapped files.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from promptreg.errors import AmbiguousWeightsError, LossyBaseModelError, UnreadableBaseModelError
from promptreg.fingerprints import Part
from promptreg.models.canonical import is_head
from promptreg.models.skeletons import Skeleton
from promptreg.models.weight_files import StoredTensor, WeightFiles

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint"]

# What older releases of transformers saved beside the weights: masks and tables that a config determines.
_BUFFERS_OF_OLD = r"(^|\.)(inv_freq|masked_bias|position_ids|token_type_ids)$"


@dataclass(slots=True)
class _Rewriting:
    """One operation of transformers: the tensors that it takes, by the pattern that their keys match."""

    converter: Any
    taken: list[tuple[str, StoredTensor]] = field(default_factory=list)


class Checkpoint:
    """The weights that the class of a skeleton would load from a directory's files.

    Raises:
        AmbiguousWeightsError: What transformers would make of the files cannot be followed.
        LossyBaseModelError: The files hold packed or quantised weights.
    """

    def __init__(self, source: str, files: WeightFiles, skeleton: Skeleton) -> None:
        self._source = source
        self._files = files
        self._skeleton = skeleton
        self._model = skeleton.model
        self._kind = type(skeleton.model).__name__
        self._kept: dict[str, StoredTensor] = {}
        self._rewritten: dict[str, _Rewriting] = {}
        self._assign()
        used = [tensor for name, tensor in self._kept.items() if name in skeleton.weights]
        used += [tensor for each in self._rewritten.values() for _, tensor in each.taken]
        for tensor in used:
            if not tensor.is_dense:
                found = f"stored with packed weights ({tensor.name} is {tensor.dtype})"
                raise LossyBaseModelError(found)

    def read(self) -> Iterator[tuple[str, StoredTensor | None, "torch.Tensor"]]:
        """Yield every weight that the files hold, by the name that the skeleton gives it.

        A weight that lies in the files as it is comes with the stored tensor that it is, as a view of the
        mapped file; one that transformers rewrites is made when it is its turn.

        Raises:
            UnreadableBaseModelError: A weight has another shape, or (at the end) is missing.
            AmbiguousWeightsError: A rewriting fails.
        """
        found = set()
        for name, stored, tensor in self._make():
            if name not in self._skeleton.weights:
                reason = f"transformers makes {name} of them, which a {self._kind} has not"
                raise AmbiguousWeightsError(self._source, reason)
            if (wanted := self._skeleton.weights[name].shape) != tensor.shape:
                reason = f"{name} is {list(tensor.shape)}, and its config.json wants {list(wanted)}"
                remedy = "fetch config.json and the weights again, together"
                raise UnreadableBaseModelError(self._source, reason, remedy)
            found.add(name)
            yield name, stored, tensor
        self._check_missing(found)

    def tie(self, digests: Mapping[str, object]) -> list[tuple[str, ...]]:
        """Return the weights that a loaded model has, each with all the names that it is used under.

        transformers ties a weight that the files lack to the one that the architecture says; a copy that they
        hold is tied if it is equal, and is a weight of its own if it is not.

        Args:
            digests: What each weight that the files hold is, by name.
        """
        owners = {name: name for name in digests}
        for members in self._ties():
            held = [name for name in members if name in digests]
            for name in members if held else ():
                if digests.get(name, digests[held[0]]) == digests[held[0]]:
                    owners[name] = held[0]
        groups: dict[str, list[str]] = {}
        for name, owner in owners.items():
            groups.setdefault(owner, []).append(name)
        return [tuple(names) for names in groups.values()]

    def _ties(self) -> list[list[str]]:
        """Return the names that may share one weight, the one that transformers prefers first."""
        ties: dict[str, list[str]] = {}
        for name, source in getattr(self._model, "all_tied_weights_keys", {}).items():
            ties.setdefault(source, [source]).append(name)
        return list(ties.values())

    def _assign(self) -> None:
        """Find for every stored tensor the weight that it becomes, or that takes it."""
        unused = []
        for key, name, converter, pattern in self._rename(self._skeleton.places):
            if name not in self._skeleton.places:
                unused.append(name)
            elif name in self._kept or (name in self._rewritten and converter is None):
                reason = f"{key} and another tensor both become {name}"
                raise AmbiguousWeightsError(self._source, reason)
            elif converter is None:
                self._kept[name] = self._files[key]
            else:
                if name not in self._rewritten:
                    self._rewritten[name] = _Rewriting(deepcopy(converter))
                self._rewritten[name].taken.append((pattern, self._files[key]))
        if unknown := [name for name in unused if not self._ignores(name)]:
            reason = f"they hold {_some(unknown)}, for which a {self._kind} has no use"
            raise AmbiguousWeightsError(self._source, reason)

    def _rename(self, places: dict[str, Any]) -> Iterator[tuple[str, str, Any, str]]:
        """Yield every stored key with its weight's name and the operation, if any, that takes it there."""
        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import (
                WeightConverter,
                WeightRenaming,
                dot_natural_key,
                rename_source_key,
            )
        except ImportError as error:
            reason = (
                "this release of transformers loads files in a way that promptreg does not know"
            )
            raise AmbiguousWeightsError(self._source, reason) from error
        transforms = get_model_conversion_mapping(self._model)
        renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
        converters = [each for each in transforms if isinstance(each, WeightConverter)]
        by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
        prefix = self._model.base_model_prefix
        for key in sorted(self._files, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters, prefix, places)
            if name not in places and key in places:  # saved under this release's names already
                name, pattern = rename_source_key(key, [], [], prefix, places)
            yield key, name, by_pattern.get(pattern or ""), pattern or ""

    def _ignores(self, name: str) -> bool:
        """Return whether transformers drops a stored tensor of that name for a reason.

        It was a buffer once or still is one, the architecture lists it as left over, or it belongs to a head
        that this class has not: nothing of it runs.
        """
        model = self._model
        patterns = [_BUFFERS_OF_OLD, *(model._keys_to_ignore_on_load_unexpected or ())]  # noqa: SLF001
        buffers = {buffer for buffer, _ in model.named_buffers()}
        bare = name.removeprefix(f"{model.base_model_prefix}.")
        return (
            bool(buffers & {name, bare, f"{model.base_model_prefix}.{bare}"})
            or any(re.search(pattern, name) for pattern in patterns)
            or is_head(bare)
        )

    def _make(self) -> Iterator[tuple[str, StoredTensor | None, "torch.Tensor"]]:
        for name, stored in self._kept.items():
            if (
                name in self._skeleton.weights
            ):  # else an integer buffer, such as a table of positions
                yield name, stored, self._files.tensor(stored)
        for first, rewriting in self._rewritten.items():
            for pattern, stored in rewriting.taken:
                tensor = self._files.tensor(stored)
                rewriting.converter.add_tensor(first, stored.name, pattern, tensor)
            try:
                made = rewriting.converter.convert(
                    first, model=self._model, config=self._model.config
                )
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                reason = f"transformers cannot make {first} of them ({error})"
                raise AmbiguousWeightsError(self._source, reason) from error
            for name, tensor in made.items():
                yield name, None, tensor[0] if isinstance(tensor, list) else tensor

    def _check_missing(self, found: set[str]) -> None:
        """Raise an error if a loaded model would have weights of its own making, other than a new head."""
        naming = self._skeleton.naming
        present = found.copy()
        for members in self._ties():
            if not found.isdisjoint(members):
                present.update(members)
        lacking = [
            name
            for name in self._skeleton.weights
            if name not in present
            and (naming.part(name) is not Part.HEAD or naming.canonical(name) == naming.output)
        ]
        if not lacking:
            return
        patterns = self._model._keys_to_ignore_on_load_missing or ()  # noqa: SLF001
        parameters = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        if made_up := [
            name
            for name in lacking
            if name not in parameters or any(re.search(pattern, name) for pattern in patterns)
        ]:
            reason = f"they lack {_some(made_up)}, which transformers then makes up"
            raise AmbiguousWeightsError(self._source, reason)
        reason = f"the files lack {_some(lacking)}, which a {self._kind} needs"
        raise UnreadableBaseModelError(self._source, reason, "fetch the directory again, whole")


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
