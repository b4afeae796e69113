"""Pickles, known by their bytes. Nothing here or anywhere in promptreg loads one."""

import re

__all__ = ["name_pickle"]

# What the first bytes match, and what such a file is.
_KINDS = (
    (
        re.compile(rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\."),
        "a PyTorch pickle (of torch.save, in its old form)",
    ),
    (re.compile(rb"\x80[\x02-\x05]"), "a pickle"),
    (
        re.compile(rb"\([dl]p?[0-9]*\n|[\]}]q|\(?c[A-Za-z_][\w.]*\n[\w.]+\n"),
        "a pickle (protocol 0 or 1)",
    ),
    (
        re.compile(rb".{257}ustar.*(?:model_weights\.ckpt|model_config\.yaml)", re.DOTALL),
        "a NeMo archive, whose weights are a pickle",
    ),
    (
        re.compile(rb"\{.*\"tensor\"\s*:\s*\"gA[I-X]", re.DOTALL),  # 0x80 and 2 to 5, in base64
        "a JSON file around a pickle (as mkultra writes it)",
    ),
    # The descr of an object array is '|O'; in a record it stands in a list of fields.
    (
        re.compile(rb"\x93NUMPY.{4,6}\{[^\n]{0,4096}'[|<>=]?O[0-9]?'", re.DOTALL),
        "a numpy array of Python objects, which are pickled",
    ),
)


def name_pickle(head: bytes, tail: bytes) -> str | None:
    """Return what kind of pickle a file is, in words, or None if it is none.

    Args:
        head: Its first bytes, some thousands of them.
        tail: Its last bytes, some thousands of them; a ZIP archive lists its members there.
    """
    if head[4:9] == b"\0\0\0\0{":  # safetensors; a header of 640 bytes starts like a pickle
        return None
    if head.startswith(b"PK\x03\x04"):
        return "a PyTorch pickle (of torch.save)" if b"data.pkl" in head + tail else None
    return next((kind for pattern, kind in _KINDS if pattern.match(head)), None)
