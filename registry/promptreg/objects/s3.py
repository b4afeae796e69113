"""An object store in an S3 bucket."""

import hashlib
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ReadTimeoutError
from urllib3.exceptions import HTTPError

from promptreg.digests import Digest
from promptreg.errors import StoreUnavailableError
from promptreg.objects.clients import DEADLINE, S3Client
from promptreg.objects.s3_errors import translated
from promptreg.objects.store import ObjectStore

__all__ = ["S3Store"]

_ATTEMPTS = 4
_CHUNK = 2**18


class S3Store(ObjectStore):
    """An object store below ``prefix`` in ``bucket``, on anything that speaks S3.

    An object is put by one request and got by one. The store is sent the SHA-256 to check, and is asked not
    to replace an object that is there; where it cannot do that, the keys still are the digests.

    Args:
        client: Gives the client to use, called for each operation: whoever makes it brings the endpoint, the
            credentials and the retries, and gives each process its own.
        bucket: The bucket, which must exist.
        prefix: What the keys begin with; a ``/`` is put behind it.
        deadline: How many seconds the body of an object may take to arrive.
    """

    def __init__(
        self,
        client: Callable[[], S3Client],
        bucket: str,
        prefix: str = "",
        *,
        deadline: float = DEADLINE,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._deadline = deadline
        self._conditional = True

    def __str__(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def _add(self, digest: Digest, data: bytes) -> None:
        checksum = b64encode(bytes.fromhex(digest.hex)).decode()
        with self._translating():
            if self._conditional and self._put_first(digest.key, data, checksum):
                return
            self._put(digest.key, data, checksum)

    def _put_first(self, key: str, data: bytes, checksum: str) -> bool:
        """Put ``data`` if nothing is there, and return whether ``data`` is there now."""
        try:
            self._put(key, data, checksum, IfNoneMatch="*")
        except ClientError as error:
            match _status(error.response):
                case HTTPStatus.CONFLICT:
                    return False  # somebody is putting the same bytes at this moment
                case HTTPStatus.PRECONDITION_FAILED:
                    # Somebody has, or we ourselves have, in an attempt whose answer was lost.
                    return self._holds(key, data, checksum)
                case HTTPStatus.NOT_IMPLEMENTED:
                    self._conditional = False
                    return False
            raise
        return True

    def _holds(self, key: str, data: bytes, checksum: str) -> bool:
        head = self._head(key)
        if head is None or head["ContentLength"] != len(data):
            return False
        if "ChecksumSHA256" in head:
            return bool(head["ChecksumSHA256"] == checksum)
        return self._read_untranslated(key, len(data) + 1) == data

    def _write(self, key: str, data: bytes) -> None:
        checksum = b64encode(hashlib.sha256(data).digest()).decode()
        with self._translating():
            self._put(key, data, checksum)

    def _put(self, key: str, data: bytes, checksum: str, **condition: str) -> None:
        response = self._client().put_object(
            Bucket=self._bucket,
            Key=self._prefix + key,
            Body=data,
            ContentType="application/octet-stream",
            ChecksumSHA256=checksum,
            **condition,
        )
        if "ETag" not in response:  # some web server that says 200 to everything
            raise StoreUnavailableError(
                str(self),
                f"{self._endpoint} answered a PUT with {_status(response)}, but not as S3 does",
                "check the endpoint, and that no proxy stands in between",
            )

    def _read(self, key: str, limit: int) -> bytes | None:
        with self._translating():
            return self._read_untranslated(key, limit)

    def _read_untranslated(self, key: str, limit: int) -> bytes | None:
        # The client repeats a request that fails, but not one whose answer breaks off later.
        deadline = time.monotonic() + self._deadline
        attempt = 1
        while True:
            try:
                response = self._client().get_object(Bucket=self._bucket, Key=self._prefix + key)
            except ClientError as error:
                if error.response["Error"].get("Code") == "NoSuchKey":
                    return None
                raise
            try:
                return _body(response, limit, deadline)
            except (HTTPError, IncompleteReadError):
                if attempt == _ATTEMPTS or time.monotonic() > deadline:
                    raise
                attempt += 1

    def _size(self, key: str) -> int | None:
        with self._translating():
            head = self._head(key)
            if head is None:
                # An answer to HEAD has no body that could tell a missing object from a missing bucket.
                self._client().head_bucket(Bucket=self._bucket)
                return None
            return int(head["ContentLength"])

    def _head(self, key: str) -> Mapping[str, Any] | None:
        try:
            return self._client().head_object(
                Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED"
            )
        except ClientError as error:
            if _status(error.response) == HTTPStatus.NOT_FOUND:
                return None
            raise

    @property
    def _endpoint(self) -> str:
        return str(self._client().meta.endpoint_url)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        # With this comes most of botocore: time enough for it when the store is used, not when it is opened.
        from botocore.parsers import ResponseParserError

        try:
            yield
        except (BotoCoreError, ClientError, ResponseParserError, HTTPError) as error:
            raise translated(error, str(self), self._bucket, self._endpoint) from error


def _status(response: Mapping[str, Any]) -> int:
    return int(response["ResponseMetadata"]["HTTPStatusCode"])


def _body(response: Mapping[str, Any], limit: int, deadline: float) -> bytes:
    """Return the first ``limit`` bytes of the body of ``response``, or all if it has fewer.

    Raises:
        HTTPError: It broke off, or its bytes stopped coming.
        IncompleteReadError: It ended too early.
        ReadTimeoutError: It had not come whole at the ``deadline``.
    """
    announced = response.get("ContentLength")
    wanted = limit if announced is None else min(announced, limit)
    chunks, size = [], 0
    with response["Body"] as stream:
        # read1 returns what has come, so that bytes that drip in cannot hold us for ever.
        while size < wanted and (chunk := stream.read1(min(_CHUNK, wanted - size))):
            chunks.append(chunk)
            size += len(chunk)
            if size < wanted and time.monotonic() > deadline:
                raise ReadTimeoutError(endpoint_url="the body of the object")
    if announced is not None and size < wanted:
        raise IncompleteReadError(actual_bytes=size, expected_bytes=announced)
    return b"".join(chunks)
