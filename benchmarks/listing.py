"""Listing: a page of 50 out of 100,000 versions on SQLite."""

import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import Row, medians

_VERSIONS = 100_000
_TASK = "team-7/task-7"


def run() -> list[Row]:
    """Measure pages, filters and a resolve by alias beside MLflow's search over as many runs."""
    with tempfile.TemporaryDirectory() as folder:
        took = medians({**_ours(Path(folder)), **_mlflow(Path(folder))}, repeat=15)
    rows = [
        Row(what=name, ours=took[name], peer="", theirs=None, wanted=0.010)
        for name in took
        if not name.startswith("mlflow")
    ]
    for name, peer in (("list", "mlflow list"), ("list --where hp.lr = 0.3", "mlflow filter")):
        beside = Row(what=name, ours=took[name], peer="MLflow", theirs=took[peer], wanted=1)
        rows.append(beside)
    return rows


def _ours(folder: Path) -> dict[str, Callable[[], object]]:
    from promptreg import Registry
    from seeding import seed

    url = f"sqlite:///{folder}/promptreg.db"
    seed(url, versions=_VERSIONS)
    registry = Registry.open(url, f"{folder}/objects")
    both = "hp.lr = 0.3 and hp.length = 20"
    return {
        "list": lambda: registry.list(limit=50),
        "list --sort -metric.accuracy": lambda: registry.list(sort="-metric.accuracy", limit=50),
        "list --where hp.lr = 0.3": lambda: registry.list(where="hp.lr = 0.3", limit=50),
        f"list --where {both}": lambda: registry.list(where=both, limit=50),
        "list --where metric.accuracy > 0.9": lambda: registry.list(
            where="metric.accuracy > 0.9", limit=50
        ),
        "resolve by alias": lambda: registry.resolve(f"{_TASK}@prod"),
    }


def _mlflow(folder: Path) -> dict[str, Callable[[], object]]:
    """Fill MLflow's own tables with as many runs, since logging them one by one takes half an hour."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow
    from mlflow import MlflowClient

    database = folder / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    client = MlflowClient()
    experiment = client.create_experiment("bench")
    runs = [(f"{index:032x}", index) for index in range(_VERSIONS)]
    with sqlite3.connect(database) as connection:
        connection.executemany(
            "INSERT INTO runs (run_uuid, name, user_id, source_type, status, start_time, lifecycle_stage,"
            " artifact_uri, experiment_id) VALUES (?, 'run', 'me', 'LOCAL', 'FINISHED', ?, 'active', '', ?)",
            [(run, index, experiment) for run, index in runs],
        )
        rates = (0.01, 0.03, 0.1, 0.3, 1.0)
        connection.executemany(
            "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
            [
                (key, value, run)
                for run, index in runs
                for key, value in (
                    ("lr", str(rates[index % 5])),
                    ("length", str(index % 6)),
                    ("optimizer", "adamw"),
                    ("seed", str(index)),
                )
            ],
        )
    return {
        "mlflow list": lambda: client.search_runs([experiment], max_results=50),
        "mlflow filter": lambda: client.search_runs(
            [experiment], "params.lr = '0.3'", max_results=50
        ),
    }
