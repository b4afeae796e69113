import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from promptreg.errors import ConfigurationError
from promptreg.objects import DirectoryStore, open_store
from promptreg.objects.s3 import S3Store


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "file://localhost{path}"])
def test_a_path_or_file_url_names_a_directory(tmp_path: Path, form: str) -> None:
    path = tmp_path / "objects of the team"
    store = open_store(form.format(path=path))
    assert isinstance(store, DirectoryStore)
    assert str(store) == str(path)


def test_a_path_is_taken_as_it_is_and_a_file_url_is_decoded_once(tmp_path: Path) -> None:
    assert str(open_store(f"{tmp_path}/50%2525?#")) == f"{tmp_path}/50%2525?#"
    assert str(open_store(f"file://{tmp_path}/50%2525%3F%23")) == f"{tmp_path}/50%25?#"


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(open_store("~/objects")) == f"{tmp_path}/objects"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://prompts", "s3://prompts"),
        ("s3://prompts/", "s3://prompts"),
        ("s3://prompts/team/a", "s3://prompts/team/a"),
        ("s3://prompts/team/a/", "s3://prompts/team/a"),
        ("s3://prompts/team%20a", "s3://prompts/team a"),
        ("S3://prompts/a?endpoint=http://127.0.0.1:9000", "s3://prompts/a"),
        ("s3://prompts/a?endpoint=https://s3.example.com/storage/v1", "s3://prompts/a"),
        (f"s3://prompts/a?endpoint={quote('http://[::1]:9000', safe='')}", "s3://prompts/a"),
        ("s3://my.prompts?region=eu-central-1&addressing=virtual", "s3://my.prompts"),
    ],
)
def test_an_s3_url_names_a_bucket_and_a_prefix(url: str, shown: str) -> None:
    store = open_store(url)
    assert isinstance(store, S3Store)
    assert str(store) == shown


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "it is empty"),
        ("gs://prompts", "no store of kind gs"),
        ("http://127.0.0.1:9000/prompts", "no store of kind http"),
        ("file://objects", "its path is not absolute"),
        ("file://server/objects", "its path is not absolute"),
        ("file:///objects?sync=no", "a directory has no settings"),
        ("file:///objects#1", "a directory has no settings"),
        ("s3://", "'' is no bucket"),
        ("s3:///prefix", "'' is no bucket"),
        ("s3://a", "'a' is no bucket"),
        ("s3://prompts:9000/a", "'prompts:9000' is no bucket"),
        ("s3://pro%2Fmpts/a", "'pro%2Fmpts' is no bucket"),
        ("s3://prompts/a//b", "'a//b' is no prefix"),
        ("s3://prompts/a/../b", "'a/../b' is no prefix"),
        ("s3://prompts/a/%2e%2e/b", "'a/../b' is no prefix"),
        ("s3://prompts/.", "'.' is no prefix"),
        ("s3://prompts/a%00", "is no prefix"),
        ("s3://prompts/a%0a", "is no prefix"),
        ("s3://prompts/a#b", "it has a part behind #"),
        ("s3://prompts?endpoint", "its settings are not key=value"),
        ("s3://prompts?endpoint=", "no http:// or https:// address"),
        ("s3://prompts?endpoint=127.0.0.1:9000", "no http:// or https:// address"),
        ("s3://prompts?endpoint=ftp://127.0.0.1", "no http:// or https:// address"),
        ("s3://prompts?endpoint=http://", "no http:// or https:// address"),
        ("s3://prompts?region=", "'' is no region"),
        ("s3://prompts?region=eu/..", "'eu/..' is no region"),
        ("s3://prompts?addressing=paths", "'paths' is no addressing; it is one of path, virtual"),
        ("s3://prompts?profile=a", "no setting 'profile'; the settings are addressing, endpoint"),
        ("s3://prompts?region=a&region=b", "the same setting twice"),
    ],
)
def test_a_url_that_cannot_be_understood_is_refused_with_a_remedy(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert reason in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hunter2@prompts/a",
        "s3://key:hunt%40hunter2@prompts/a",
        "s3://prompts/a?endpoint=http://key:hunter2@127.0.0.1:9000",
        "s3://prompts/a?secret_key=hunter2",
        "s3://prompts/a?endpoint=hunter2",
        "https://key:hunter2@127.0.0.1:9000/prompts",
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


@pytest.mark.parametrize("url", ["/objects", "s3://prompts?endpoint=http://127.0.0.1:1"])
def test_boto3_is_not_imported_before_a_store_is_used(url: str) -> None:
    code = (
        "import sys; from promptreg.objects import open_store; open_store(sys.argv[1]); "
        "sys.exit('boto3' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, url], check=True)


def test_botocore_is_not_imported_for_a_directory() -> None:
    code = (
        "import sys; from promptreg.objects import open_store; open_store('/objects'); "
        "sys.exit('botocore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
