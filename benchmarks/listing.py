"""Listing: a page of 50 out of 100,000 versions on SQLite."""

import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import Row, medians


def run() -> list[Row]:
    """Measure pages, filters and a resolve by alias."""
    from promptreg import Registry

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/promptreg.db"
        Registry.upgrade(url)
        from registry.database.seeding import seed

        seed(url, versions=100_000)
        with Registry.open(url, f"{folder}/objects") as registry:
            took = medians(
                {
                    "list": lambda: registry.list(limit=50),
                    "list sort": lambda: registry.list(sort="-metric.accuracy", limit=50),
                    "filter": lambda: registry.list(
                        where="hp.lr = 0.3 and hp.length = 20", limit=50
                    ),
                    "metric": lambda: registry.list(where="metric.accuracy > 0.9", limit=50),
                    "alias": lambda: registry.resolve("task-7@prod"),
                },
                repeat=15,
            )
    names = {
        "list": "list",
        "list sort": "list --sort -metric.accuracy",
        "filter": "list --where 'hp.lr = 0.3 and hp.length = 20'",
        "metric": "list --where 'metric.accuracy > 0.9'",
        "alias": "resolve task-7@prod",
    }
    return [
        Row(what=what, ours=took[name], peer="", theirs=None, wanted=0.010)
        for name, what in names.items()
    ]
