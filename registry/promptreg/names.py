"""Names and references: how tasks, versions and aliases are written."""

import re
from dataclasses import dataclass

from promptreg.errors import InvalidNameError

__all__ = ["Reference", "check_alias", "check_base_name", "check_task"]

_SEGMENT = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
_TASK = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,2}}", re.ASCII)
_ALIAS = re.compile(_SEGMENT, re.ASCII)
_BASE = re.compile(
    r"[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*(?:/[A-Za-z0-9]+(?:[._-]+[A-Za-z0-9]+)*){0,2}", re.ASCII
)
_DIGEST_PREFIX = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_LONGEST = 128
_WORD_RULE = "small letters and digits, joined by single '.', '_' or '-'"


def check_task(name: str) -> str:
    """Return ``name`` if it is a task's name, such as ``sst2`` or ``acme/mail-spam``.

    Raises:
        InvalidNameError: It is not.
    """
    if len(name) > _LONGEST or not _TASK.fullmatch(name):
        rule = f"at most {_LONGEST} characters in at most three parts joined by '/', each of {_WORD_RULE}"
        raise InvalidNameError("task name", name, rule)
    return name


def check_alias(name: str) -> str:
    """Return ``name`` if it is an alias, such as ``prod``: a word that is not a number.

    Raises:
        InvalidNameError: It is not.
    """
    if len(name) > _LONGEST or not _ALIAS.fullmatch(name) or name.isdigit():
        rule = f"at most {_LONGEST} characters, {_WORD_RULE}, and not a number"
        raise InvalidNameError("alias", name, rule)
    return name


def check_base_name(name: str) -> str:
    """Return ``name`` if it can name a base model, such as ``google/gemma-3-270m``.

    Model hubs allow capitals and repeated joiners, so this grammar does too.

    Raises:
        InvalidNameError: It cannot.
    """
    if len(name) > _LONGEST or not _BASE.fullmatch(name):
        rule = (
            f"at most {_LONGEST} characters in at most three parts joined by '/', "
            "each of letters and digits, joined by '.', '_' or '-'"
        )
        raise InvalidNameError("name of a base model", name, rule)
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a person writes to name one prompt version.

    Either ``digest_prefix`` is set, or ``task`` and at most one of ``version`` and ``alias``; a task alone
    stands for its newest version that is not yanked.

    >>> Reference.parse("acme/mail-spam@prod")
    Reference(task='acme/mail-spam', version=None, alias='prod', digest_prefix=None)
    """

    task: str | None = None
    version: int | None = None
    alias: str | None = None
    digest_prefix: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read ``[NAMESPACE/]TASK[@VERSION|@ALIAS]`` or ``sha256:HEX`` (8 digits or more).

        Raises:
            InvalidNameError: It is neither.
        """
        if text.startswith("sha256:"):
            prefix = text.removeprefix("sha256:")
            if not _DIGEST_PREFIX.fullmatch(prefix):
                raise InvalidNameError(
                    "reference", text, "a digest has 8 to 64 hex digits after sha256:"
                )
            return cls(digest_prefix=prefix)
        task, at, rest = text.partition("@")
        check_task(task)
        if not at:
            return cls(task=task)
        if _VERSION.fullmatch(rest):
            return cls(task=task, version=int(rest))
        if not rest or rest.isdigit():
            rule = "after '@' stands a version (1, 2, …) or an alias (prod)"
            raise InvalidNameError("reference", text, rule)
        return cls(task=task, alias=check_alias(rest))

    def __str__(self) -> str:
        if self.digest_prefix is not None:
            return f"sha256:{self.digest_prefix}"
        selector = self.version if self.version is not None else self.alias
        return f"{self.task}" if selector is None else f"{self.task}@{selector}"
