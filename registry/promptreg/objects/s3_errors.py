"""What boto3's errors mean for whoever uses the store."""

from http import HTTPStatus

from botocore import exceptions
from botocore.exceptions import ClientError
from urllib3 import exceptions as urllib3

from promptreg.errors import StoreError, StoreFullError, StoreUnavailableError

__all__ = ["translated"]

_URL = "PROMPTREG_OBJECTS_URL"
_CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile in AWS_PROFILE"
_RIGHTS = (
    "allow these credentials s3:GetObject, s3:PutObject and s3:ListBucket there "
    "(without the last, S3 says 403 for an object that is missing)"
)
_REGION = f"put the bucket's region into {_URL} as ?region=..."
_ENDPOINT = f"check the endpoint in {_URL}, and that the service runs"
_LATER = "run the command again later; if it stays so, look at the service's log"

_FULL = {
    "InsufficientCapacity",
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}
# HEAD has no body: its codes are bare numbers.
_ANSWERS = {
    "301": ("the bucket is in another region", _REGION),
    "400": ("the request was refused", _CREDENTIALS),
    "403": ("access was denied", _RIGHTS),
    "404": ("there is no such bucket, or no S3 service", f"create it, or mend its name in {_URL}"),
    "AccessDenied": ("access was denied", _RIGHTS),
    "AccountProblem": ("access was denied", _RIGHTS),
    "AllAccessDisabled": ("access was denied", _RIGHTS),
    "AuthorizationHeaderMalformed": ("the request was signed for another region", _REGION),
    "BadDigest": ("the bytes changed on the way", _LATER),
    "ExpiredToken": ("the credentials have expired", "log in again"),
    "IllegalLocationConstraintException": ("the bucket is in another region", _REGION),
    "InvalidAccessKeyId": ("the access key is not known there", _CREDENTIALS),
    "InvalidBucketName": ("no bucket can have that name", f"mend it in {_URL}"),
    "InvalidToken": ("the session token is not valid there", _CREDENTIALS),
    "NoSuchBucket": ("there is no such bucket", f"create it, or mend its name in {_URL}"),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "RequestTimeTooSkewed": (
        "the clocks differ by more than S3 allows",
        "set this machine's clock",
    ),
    "SignatureDoesNotMatch": ("the secret key does not fit the access key", _CREDENTIALS),
    "XAmzContentSHA256Mismatch": ("the bytes changed on the way", _LATER),
}
_FAILURES: dict[type[Exception], tuple[str, str]] = {
    exceptions.NoCredentialsError: ("boto3 finds no credentials", _CREDENTIALS),
    exceptions.PartialCredentialsError: (
        "boto3 finds only a part of the credentials",
        _CREDENTIALS,
    ),
    exceptions.CredentialRetrievalError: ("boto3 cannot fetch the credentials", _CREDENTIALS),
    exceptions.ParamValidationError: ("S3 knows no such name", f"mend the bucket in {_URL}"),
    exceptions.SSLError: ("the TLS connection to {endpoint} failed", _ENDPOINT),
    exceptions.ProxyConnectionError: (
        "the proxy cannot be reached",
        "check HTTPS_PROXY and HTTP_PROXY",
    ),
    exceptions.ConnectTimeoutError: ("{endpoint} did not answer in time", _ENDPOINT),
    exceptions.EndpointConnectionError: ("{endpoint} cannot be reached", _ENDPOINT),
    exceptions.ReadTimeoutError: ("{endpoint} did not answer in time", _LATER),
    exceptions.ConnectionClosedError: ("{endpoint} cut the connection", _LATER),
    exceptions.IncompleteReadError: ("{endpoint} cut the connection", _LATER),
    urllib3.TimeoutError: ("{endpoint} did not answer in time", _LATER),
    urllib3.SSLError: ("the TLS connection to {endpoint} failed", _ENDPOINT),
    urllib3.ProtocolError: ("{endpoint} cut the connection", _LATER),
}
_LONGEST_SHOWN = 200


def translated(error: Exception, store: str, bucket: str, endpoint: str) -> StoreError:
    """Return the error of ours that says what ``error`` means, and what mends it.

    Args:
        error: What boto3 raised.
        store: What the store calls itself.
        bucket: The bucket that was asked for.
        endpoint: The service that was asked.
    """
    if isinstance(error, ClientError):
        return _answer(error, store, bucket, endpoint)
    for kind, (reason, remedy) in _FAILURES.items():
        if isinstance(error, kind):
            return StoreUnavailableError(store, reason.format(endpoint=endpoint), remedy)
    return StoreUnavailableError(store, _shown(f"{endpoint}: {error}"), _ENDPOINT)


def _answer(error: ClientError, store: str, bucket: str, endpoint: str) -> StoreError:
    code = error.response["Error"].get("Code", "")
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    said = _shown(error.response["Error"].get("Message") or code)
    if code in _FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StoreFullError(store, f"{endpoint} says {code} ({said})")
    if code in _ANSWERS:
        reason, remedy = _ANSWERS[code]
        return StoreUnavailableError(store, f"{reason} ({bucket} at {endpoint}, {status})", remedy)
    busy = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS
    remedy = _LATER if busy else _ENDPOINT
    return StoreUnavailableError(store, f"{endpoint} answers {status} {code} ({said})", remedy)


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SHOWN else line[:_LONGEST_SHOWN] + "…"
