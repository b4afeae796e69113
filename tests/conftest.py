"""The engines that the tests run on: one server of each kind per test run, started when first asked for."""

from pathlib import Path

import pytest

from engines_s3 import moto_server, moto_url, seaweedfs_server, seaweedfs_url
from engines_sql import (
    empty_url,
    open_database,
    postgresql_server,
    postgresql_url,
    sqlite_url,
    upgraded_postgresql_url,
    upgraded_sqlite,
    upgraded_sqlite_url,
    upgraded_template,
    upgraded_url,
)

__all__ = [
    "empty_url",
    "moto_server",
    "moto_url",
    "open_database",
    "postgresql_server",
    "postgresql_url",
    "seaweedfs_server",
    "seaweedfs_url",
    "sqlite_url",
    "upgraded_postgresql_url",
    "upgraded_sqlite",
    "upgraded_sqlite_url",
    "upgraded_template",
    "upgraded_url",
]


@pytest.fixture(autouse=True)
def _own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep each test away from the developer's own registry and cache, and from the test before."""
    for name in ("DATABASE_URL", "OBJECTS_URL"):
        monkeypatch.delenv(f"PROMPTREG_{name}", raising=False)
    monkeypatch.setenv("PROMPTREG_DATA_DIR", str(tmp_path / "promptreg-data"))
    monkeypatch.setenv("PROMPTREG_CACHE_DIR", str(tmp_path / "promptreg-cache"))
