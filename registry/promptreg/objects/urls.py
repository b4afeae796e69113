"""URLs of object stores."""

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from promptreg.errors import ConfigurationError
from promptreg.objects.directory import DirectoryStore
from promptreg.objects.store import ObjectStore

__all__ = ["open_store"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_SEGMENT = re.compile(r"(?!\.\.?$)[A-Za-z0-9!_.*'()=+@:, -]+")
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+(/[^?#@\s]*)?")
_REGION = re.compile(r"[A-Za-z0-9-]+")
_ADDRESSING = ("path", "virtual", "auto")
_KEYS = ("addressing", "endpoint", "region")


def open_store(url: str) -> ObjectStore:
    """Return the object store that ``url`` names. Nothing is read, written or asked for yet.

    Args:
        url: A path or ``file://`` URL of a directory, or
            ``s3://bucket/prefix?endpoint=http://...&region=...&addressing=path|virtual|auto``, where the
            prefix and each of the settings may be left out. Credentials come from where boto3 looks for
            them, never from the URL.

    Raises:
        ConfigurationError: The URL cannot be understood.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        if not url:
            raise _invalid(url, "it is empty", "name a directory or an s3:// URL")
        return DirectoryStore(Path(url).expanduser())
    match scheme[1].lower():
        case "file":
            return _open_directory(url)
        case "s3":
            return _open_s3(url)
    raise _invalid(
        url, f"there is no store of kind {scheme[1]}", "name a path, or a file:// or s3:// URL"
    )


def _open_directory(url: str) -> ObjectStore:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or not parts.path:
        raise _invalid(
            url, "its path is not absolute", "write it with three slashes: file:///srv/objects"
        )
    if parts.query or parts.fragment:
        raise _invalid(url, "a directory has no settings", "write ? and # in a path as %3F and %23")
    return DirectoryStore(Path(unquote(parts.path)))


def _open_s3(url: str) -> ObjectStore:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise _invalid(
            url,
            "credentials do not belong into a URL, which ends up in logs",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise _invalid(
            url,
            f"{parts.netloc!r} is no bucket",
            "write s3://bucket/prefix, and another service's address behind it as ?endpoint=http://...",
        )
    if parts.fragment:
        raise _invalid(url, "it has a part behind #", "leave that out")
    prefix = unquote(parts.path).strip("/")
    if prefix and not all(_SEGMENT.fullmatch(segment) for segment in prefix.split("/")):
        raise _invalid(
            url,
            f"{prefix!r} is no prefix that every S3 store takes",
            "use letters, digits and !_.*'()=+@:,- in segments that are not empty, '.' or '..'",
        )
    settings = _settings(url, parts.query)

    from promptreg.objects.clients import S3Connection, S3Settings
    from promptreg.objects.s3 import S3Store

    return S3Store(S3Connection(S3Settings(**settings)), parts.netloc, prefix)


def _settings(url: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise _invalid(
            url, "its settings are not key=value", "write ?endpoint=...&region=..."
        ) from error
    settings = dict(pairs)
    if len(settings) < len(pairs):
        raise _invalid(url, "it says the same setting twice", "say it once")
    for key, value in pairs:
        if key not in _KEYS:
            raise _invalid(
                url, f"it has no setting {key!r}", f"the settings are {', '.join(_KEYS)}"
            )
        _check(url, key, value)
    return settings


def _check(url: str, key: str, value: str) -> None:
    if key == "endpoint" and not _ENDPOINT.fullmatch(value):
        raise _invalid(
            url, "the endpoint is no http:// or https:// address", "write http://host:port"
        )
    if key == "region" and not _REGION.fullmatch(value):
        raise _invalid(url, f"{value!r} is no region", "write one such as eu-central-1")
    if key == "addressing" and value not in _ADDRESSING:
        raise _invalid(url, f"{value!r} is no addressing", f"it is one of {', '.join(_ADDRESSING)}")


def _invalid(url: str, reason: str, remedy: str) -> ConfigurationError:
    # Whatever may hold a secret is left out: what stands before an @, and the values of the settings.
    shown = url.partition("?")[0]
    scheme, separator, rest = shown.partition("://")
    shown = scheme + separator + rest.rpartition("@")[2]
    return ConfigurationError("the URL of the object store", shown, reason, remedy)
