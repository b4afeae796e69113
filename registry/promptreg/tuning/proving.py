"""Proving that the model at hand is the base model that a tuning's prompts will be registered on."""

from typing import TYPE_CHECKING

from promptreg.errors import IncompatibleModelError
from promptreg.fingerprints import Verdict, compare
from promptreg.models.canonical import Naming
from promptreg.models.fingerprinting import from_module

if TYPE_CHECKING:
    from collections.abc import Sequence

    from promptreg.bases import BaseModel
    from promptreg.models.anatomy import Anatomy

__all__ = ["new_weights"]

_SHOWN = 5


def new_weights(anatomy: "Anatomy", base: "BaseModel") -> frozenset[str]:
    """Return which weights of a classifier the base model's files do not have: random ones, to be trained.

    Args:
        anatomy: The model at hand.
        base: The base model that prompts will be registered on.

    Raises:
        IncompatibleModelError: The model at hand has other weights than the base model, beside those.
        BaseModelError: It cannot be fingerprinted (it is quantised, say).
    """
    model = anatomy.model
    naming = Naming.of(model)
    new: frozenset[str] = frozenset()
    if anatomy.pooled and base.table is not None:
        known = {record.name for record in base.table.records}
        names = (name for name, _ in model.named_parameters())
        new = frozenset(name for name in names if naming.canonical(name) not in known)
    at_hand = from_module(model)
    if at_hand.fingerprint == base.fingerprint:
        return new
    differing: Sequence[str] = ()
    if at_hand.table is not None and base.table is not None:
        replaced = frozenset(map(naming.canonical, new))
        comparison = compare(base.table, at_hand.table, replaced=replaced)
        if comparison.verdict is Verdict.EXACT:
            return new
        differing = comparison.differing
    raise IncompatibleModelError(
        str(base),
        str(at_hand),
        "another",
        differing[:_SHOWN],
        max(len(differing) - _SHOWN, 0),
        "train on the base model that the plan names",
    )
