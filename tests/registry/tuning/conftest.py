"""Small base models that have learned something, made once, and examples for them."""

import json
from pathlib import Path
from typing import Any

import pytest

from small_bases import Kind, lines, make_base

WAY = 2


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """The directory of each kind's base model, written when it is first asked for."""
    return _Bases(tmp_path_factory.mktemp("bases"))


class _Bases(dict[Kind, Path]):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, kind: Kind) -> Path:
        self[kind] = make_base(kind, self._root / kind)
        return self[kind]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of one way to read texts."""
    root = tmp_path_factory.mktemp("data")
    return {
        name: write(root / f"{name}.jsonl", lines(WAY, count, seed))
        for name, count, seed in (("train", 300, 1), ("dev", 60, 2), ("test", 60, 3))
    }


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is remembered in this test's folder."""
    monkeypatch.setenv("PROMPTREG_DATA_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("PROMPTREG_CACHE_DIR", str(tmp_path / "cache"))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
