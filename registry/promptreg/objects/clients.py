"""boto3 clients: one a process and settings."""

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from promptreg.errors import ConfigurationError

__all__ = ["DEADLINE", "S3Client", "S3Connection", "S3Settings", "keep_deadline"]

DEADLINE = 30.0
"""How long an operation may take, in seconds."""

_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 20


class S3Client(Protocol):
    """The part of boto3's S3 client that the store uses."""

    meta: Any

    def put_object(self, **request: Any) -> Mapping[str, Any]: ...  # noqa: D102
    def get_object(self, **request: Any) -> Mapping[str, Any]: ...  # noqa: D102
    def head_object(self, **request: Any) -> Mapping[str, Any]: ...  # noqa: D102
    def head_bucket(self, **request: Any) -> Mapping[str, Any]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """What an ``s3://`` URL says about the service; the rest boto3 finds in its environment and profiles.

    Attributes:
        endpoint: The address of the service, if it is not that of AWS or of boto3's configuration.
        region: The region, if it is not that of boto3's configuration.
        addressing: ``path``, ``virtual`` or ``auto``: whether the bucket stands in the path or in the host's
            name. If nothing is said, it is in the path when an endpoint is given, and as boto3 is configured
            otherwise.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: str | None = None


class S3Connection:
    """Gives the client for ``settings`` that belongs to the process in which it is called.

    boto3 is imported and the client made at the first call. A client's connections must not be used on both
    sides of a fork, so a child gets a client of its own.
    """

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._current: tuple[int, S3Client] | None = None

    def __call__(self) -> S3Client:
        """Return this process's client.

        Raises:
            ConfigurationError: boto3 cannot make one from the settings and its own configuration.
        """
        current = self._current
        if current is None or current[0] != os.getpid():
            current = self._current = os.getpid(), _shared_client(self._settings)
        return current[1]


# By process as well: after a fork the parent's clients stay untouched, for to close them would take locks
# that another thread of the parent may have held.
_clients: dict[tuple[int, S3Settings, frozenset[tuple[str, str]]], S3Client] = {}
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock  # noqa: PLW0603 (a thread of the parent may have held it when the process forked)
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _shared_client(settings: S3Settings) -> S3Client:
    # Whoever changes AWS_PROFILE and opens a store again means the other credentials.
    environment = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    key = (os.getpid(), settings, environment)
    with _lock:  # boto3's sessions may not be used by two threads at once; its clients may
        if key not in _clients:
            _clients[key] = _make_client(settings)
        return _clients[key]


def _make_client(settings: S3Settings) -> S3Client:
    import boto3.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    endpoint = settings.endpoint
    config = Config(
        signature_version="s3v4",
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        tcp_keepalive=True,
        max_pool_connections=32,
        retries={"mode": "standard", "total_max_attempts": 4},
        # The store sends its own sum, the object's name, and checks it on every read.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3=_addressing(settings),
    )
    try:
        session = boto3.session.Session()
        region = settings.region or session.region_name or ("us-east-1" if endpoint else None)
        client: Any = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            "the settings of S3",
            endpoint or "AWS",
            str(error),
            "check the AWS_* variables and profiles",
        ) from error
    keep_deadline(client, DEADLINE)
    return cast("S3Client", client)


def keep_deadline(client: S3Client, seconds: float) -> None:
    """Forbid ``client`` every retry that might end later than ``seconds`` after the operation began.

    An attempt may take as long as the two timeouts of the client together. The first is always made.
    """
    timeouts = client.meta.config.connect_timeout + client.meta.config.read_timeout

    def note_start(*, context: dict[str, Any], **_: object) -> None:
        context["promptreg_start"] = time.monotonic()

    def refuse_late_retry(*, request_dict: dict[str, Any], **_: object) -> bool | None:
        waited = time.monotonic() - request_dict["context"]["promptreg_start"]
        return False if waited + timeouts > seconds else None  # botocore takes False for "do not"

    client.meta.events.register("before-call.s3", note_start)
    client.meta.events.register_first("needs-retry.s3", refuse_late_retry)


def _addressing(settings: S3Settings) -> Any:
    style: str | None = settings.addressing
    if style is None and (
        settings.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    ):
        style = "path"
    return {"addressing_style": style} if style else None
