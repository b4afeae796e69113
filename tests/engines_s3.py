"""Real S3 servers for the tests: moto's, and SeaweedFS, which checks sums and signatures as moto does not.

One of each runs for the whole test run (or worker), on ports that were free. A test gets a URL with a prefix of
its own, and an environment in which boto3 finds that server's credentials and nothing of the developer's.
"""

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

__all__ = [
    "S3Server",
    "moto_server",
    "moto_url",
    "running_seaweedfs",
    "seaweedfs_server",
    "seaweedfs_url",
    "use_credentials",
]

_BUCKET = "prompts"
_PORTS = ("master", "volume", "filer", "s3")
_PATIENCE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running server, with a bucket in it.

    Attributes:
        endpoint: Its address.
        access_key: The access key of one who may do everything.
        secret_key: The secret key that belongs to it.
        reader: The access and the secret key of one who may only read.
        bucket: The bucket.
        log: Where it writes what it does.
    """

    endpoint: str
    access_key: str = "PROMPTREGTEST"
    secret_key: str = field(default="correct-horse-battery-staple", repr=False)
    reader: tuple[str, str] = field(default=("PROMPTREGREADER", "may-only-read"), repr=False)
    bucket: str = _BUCKET
    log: Path | None = None

    def client(self, **config: Any) -> Any:
        """Return a bare boto3 client with all rights, which repeats nothing unless told to."""
        import boto3
        from botocore.config import Config

        settings: dict[str, Any] = {
            "signature_version": "s3v4",
            "s3": {"addressing_style": "path"},
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(**(settings | config)),
        )

    def url(self, prefix: str = "", *, bucket: str | None = None) -> str:
        """Return the URL of an object store on this server."""
        return f"s3://{bucket or self.bucket}/{prefix}?endpoint={quote(self.endpoint, safe=':/')}"


def use_credentials(monkeypatch: pytest.MonkeyPatch, access_key: str, secret_key: str) -> None:
    """Let boto3 find these credentials, and no other setting of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """Moto's server. It takes any credentials and any checksum."""
    from moto.server import ThreadedMotoServer

    process = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    process.start()
    host, port = process.get_host_and_port()
    server = S3Server(endpoint=f"http://{host}:{port}")
    client = server.client()
    client.create_bucket(Bucket=server.bucket)
    client.close()
    yield server
    process.stop()


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS in one process, which refuses wrong signatures, wrong sums and strangers."""
    with running_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@contextmanager
def running_seaweedfs(folder: Path) -> Iterator[S3Server]:
    """Run SeaweedFS, which keeps its files in ``folder``."""
    last: RuntimeError | None = None
    for _ in range(3):  # somebody may take a port between our looking and the server's binding
        ports = _free_ports(10)
        server = S3Server(endpoint=f"http://127.0.0.1:{ports[3]}", log=folder / "log")
        process = _start(server, folder, ports)
        try:
            _wait_for(server, process)
        except RuntimeError as error:
            last = error
            _stop(process, ports)
            continue
        try:
            yield server
        finally:
            _stop(process, ports)
        return
    raise last or RuntimeError("SeaweedFS did not start")


@pytest.fixture
def moto_url(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty object store on moto's server."""
    return _url(moto_server, monkeypatch)


@pytest.fixture
def seaweedfs_url(seaweedfs_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty object store on SeaweedFS."""
    return _url(seaweedfs_server, monkeypatch)


def _url(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    use_credentials(monkeypatch, server.access_key, server.secret_key)
    return server.url(f"test-{uuid.uuid4().hex}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start(server: S3Server, folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    identities = [
        _identity("admin", server.access_key, server.secret_key, "Admin"),
        _identity("reader", *server.reader, "Read", "List"),
    ]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": identities}))
    named = [f"-{name}.port={port}" for name, port in zip(_PORTS, ports, strict=False)]
    named += [f"-{name}.port.grpc={port}" for name, port in zip(_PORTS, ports[4:], strict=False)]
    named += [f"-volume.port.public={ports[8]}", f"-filer.port.public={ports[9]}"]
    # A run that is killed itself takes the server with it, where the system can be told so.
    bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    command = [
        *bound,
        str(Path(sysconfig.get_path("scripts")) / "weed"),
        "-logtostderr",
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        "-volume.max=0",
        f"-filer.localSocket={folder / 'filer.sock'}",
        "-s3",
        f"-s3.config={config}",
        f"-s3.localSocket={folder / 's3.sock'}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *named,
    ]
    assert server.log is not None
    with server.log.open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)


def _identity(name: str, access_key: str, secret_key: str, *actions: str) -> dict[str, Any]:
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _wait_for(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    """Return when an object can be stored and read: SeaweedFS answers long before."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client(connect_timeout=2, read_timeout=10)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            _try_out(client, server.bucket)
        except (BotoCoreError, ClientError):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
                break
        else:
            client.close()
            return
    client.close()
    assert server.log is not None
    raise RuntimeError(f"SeaweedFS did not start: {server.log.read_text(errors='replace')[-2000:]}")


def _try_out(client: Any, bucket: str) -> None:
    with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key="ready", Body=b"ready")
    assert client.get_object(Bucket=bucket, Key="ready")["Body"].read() == b"ready"


def _stop(process: subprocess.Popen[bytes], ports: list[int]) -> None:
    process.kill()
    process.wait()
    for name, port in zip(_PORTS, ports[4:], strict=False):  # it leaves its sockets there
        Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108
