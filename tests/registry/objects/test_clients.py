import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from engines_s3 import use_credentials
from promptreg.errors import ConfigurationError
from promptreg.objects.clients import S3Client, S3Connection, S3Settings

_HERE = "http://127.0.0.1:9000"

_CHILD = """
import os
from promptreg.objects.clients import S3Connection, S3Settings

connection = S3Connection(S3Settings(endpoint="http://127.0.0.1:9000"))
client = connection()
child = os.fork()
if not child:
    os._exit(connection() is client or connection() is not connection())
assert os.waitpid(child, 0)[1] == 0
assert connection() is client
"""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    use_credentials(monkeypatch, "KEY", "secret")


def _client(**settings: str) -> S3Client:
    return S3Connection(S3Settings(**settings))()


def _host(client: S3Client) -> str:
    url: str = client.generate_presigned_url(  # type: ignore[attr-defined]
        "get_object", Params={"Bucket": "prompts", "Key": "key"}
    )
    return url.partition("?")[0]


def test_a_client_waits_repeats_and_sums_as_it_was_decided() -> None:
    config = _client(endpoint=_HERE).meta.config
    assert (config.connect_timeout, config.read_timeout) == (5, 20)
    assert config.retries == {"mode": "standard", "total_max_attempts": 4}
    assert config.signature_version == "s3v4"
    assert config.tcp_keepalive
    assert config.max_pool_connections == 32
    assert config.request_checksum_calculation == "when_required"
    assert config.response_checksum_validation == "when_required"


def test_stores_with_the_same_settings_share_one_client() -> None:
    assert _client(endpoint=_HERE) is _client(endpoint=_HERE)
    assert _client(endpoint=_HERE) is not _client(endpoint=_HERE, region="eu-central-1")


def test_threads_that_begin_at_once_share_one_client() -> None:
    barrier = Barrier(8)

    def connect(_: int) -> S3Client:
        barrier.wait()
        return _client(endpoint="http://127.0.0.1:9001")

    with ThreadPoolExecutor(8) as pool:
        assert len({id(client) for client in pool.map(connect, range(8))}) == 1


def test_a_child_process_gets_a_client_of_its_own() -> None:
    subprocess.run([sys.executable, "-c", _CHILD], check=True, timeout=60)


def test_other_credentials_are_another_client(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _client(endpoint=_HERE)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OTHER")
    assert _client(endpoint=_HERE) is not before


def test_the_bucket_is_in_the_path_when_an_endpoint_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _host(_client(endpoint="http://s3.example.com")) == "http://s3.example.com/prompts/key"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3.example.org")
    assert _host(_client()) == "http://s3.example.org/prompts/key"


def test_the_bucket_is_in_the_host_where_aws_is_meant_or_the_url_says_so() -> None:
    assert _host(_client(region="eu-central-1")).startswith("https://prompts.s3.")
    virtual = _client(endpoint="http://s3.example.com", addressing="virtual")
    assert _host(virtual) == "http://prompts.s3.example.com/key"


def test_the_region_is_that_of_the_url_or_of_boto3_or_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _client(endpoint=_HERE).meta.config.region_name == "us-east-1"
    assert _client(endpoint=_HERE, region="eu-west-1").meta.config.region_name == "eu-west-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert _client(endpoint=_HERE).meta.config.region_name == "eu-central-1"


def test_credentials_and_endpoint_may_come_from_a_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(
        "[profile team]\nregion = eu-north-1\nendpoint_url = http://s3.example.net\n"
        "s3 =\n  addressing_style = path\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    client = _client()
    assert client.meta.config.region_name == "eu-north-1"
    assert _host(client) == "http://s3.example.net/prompts/key"


@pytest.mark.parametrize(
    ("name", "value"),
    [("AWS_PROFILE", "nobody's"), ("AWS_ENDPOINT_URL", "nowhere"), ("AWS_CONFIG_FILE", "BROKEN")],
)
def test_a_configuration_of_boto3_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    (tmp_path / "config").write_text("what is this")
    monkeypatch.setenv(name, str(tmp_path / "config") if value == "BROKEN" else value)
    with pytest.raises(ConfigurationError, match=r"check the AWS_\* variables and profiles"):
        _client()
