import hashlib

import pytest

from promptreg.digests import Digest


def test_a_digest_is_the_sha256_of_the_bytes() -> None:
    assert str(Digest.of(b"x")) == "sha256:" + hashlib.sha256(b"x").hexdigest()


def test_a_digest_fans_its_key_out_by_the_first_byte() -> None:
    digest = Digest("sha256:" + "ab" + "c" * 62)
    assert digest.key == "sha256/ab/" + "c" * 62


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "g" * 64,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 64 + "\n",
        "sha512:" + "a" * 64,
        "sha256:../../../../etc/passwd",
    ],
)
def test_anything_else_is_no_digest(text: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        Digest(text)
