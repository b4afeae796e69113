"""Digests: the names of objects."""

import hashlib
import re
from dataclasses import dataclass

__all__ = ["Digest"]

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The SHA-256 digest of some bytes, written ``sha256:<64 hex digits>``.

    >>> str(Digest.of(b"soft prompt"))[:15]
    'sha256:8d985a74'
    """

    text: str

    def __post_init__(self) -> None:
        if not _PATTERN.fullmatch(self.text):
            raise ValueError(f"a digest reads sha256:<64 hex digits>, not {self.text!r}")

    @classmethod
    def of(cls, data: bytes | memoryview) -> "Digest":
        """Return the digest of ``data``."""
        return cls(f"sha256:{hashlib.sha256(data).hexdigest()}")

    @property
    def hex(self) -> str:
        """The 64 hex digits."""
        return self.text.removeprefix("sha256:")

    @property
    def key(self) -> str:
        """The object key: ``sha256/ab/cdef...``, fanned out by the first byte."""
        return f"sha256/{self.hex[:2]}/{self.hex[2:]}"

    def __str__(self) -> str:
        return self.text
