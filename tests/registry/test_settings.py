from pathlib import Path

import pytest

from promptreg.settings import Locations, cache_directory, data_directory


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "OBJECTS_URL", "DATA_DIR", "CACHE_DIR"):
        monkeypatch.delenv(f"PROMPTREG_{name}", raising=False)


def test_without_a_word_both_live_in_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTREG_DATA_DIR", str(tmp_path))
    places = Locations.find()
    assert places.database == f"{tmp_path}/promptreg.db"
    assert places.objects == f"{tmp_path}/objects"
    assert places.embedded


def test_the_environment_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTREG_DATABASE_URL", "postgresql://db/p")
    monkeypatch.setenv("PROMPTREG_OBJECTS_URL", "s3://bucket")
    places = Locations.find()
    assert (places.database, places.objects) == ("postgresql://db/p", "s3://bucket")
    assert not places.embedded


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTREG_DATABASE_URL", "postgresql://db/p")
    assert Locations.find("sqlite:///mine.db").database == "sqlite:///mine.db"


def test_an_empty_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTREG_DATABASE_URL", "")
    assert Locations.find().embedded


def test_the_user_s_own_directories_are_used_unless_moved() -> None:
    assert data_directory().name == "promptreg"
    assert cache_directory().name == "promptreg"
    assert data_directory() != cache_directory()
