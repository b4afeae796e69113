"""Start-up: a cold process lists a small registry."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import Row, medians


def run() -> list[Row]:
    """Measure the whole command beside the two imports that it cannot do without."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PROMPTREG_DATA_DIR": folder, "PROMPTREG_CACHE_DIR": folder}
        for name in ("PROMPTREG_DATABASE_URL", "PROMPTREG_OBJECTS_URL"):
            env.pop(name, None)
        _fill(Path(folder))
        script = str(Path(sys.executable).with_name("promptreg"))

        def start(*command: str) -> None:
            subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)

        steps = {
            "list": lambda: start(script, "list"),
            "help": lambda: start(script, "--help"),
            "imports": lambda: start(sys.executable, "-c", "import click, sqlalchemy"),
            "mlflow": lambda: start(sys.executable, "-m", "mlflow", "--version"),
        }
        took = medians(steps, repeat=9)
    ours = took["list"]
    return [
        Row(
            what="promptreg list",
            ours=ours,
            peer="import click, sqlalchemy",
            theirs=took["imports"],
            wanted=1.4,
        ),
        Row(
            what="promptreg list",
            ours=ours,
            peer="mlflow --version",
            theirs=took["mlflow"],
            wanted=1,
        ),
        Row(
            what="promptreg --help",
            ours=took["help"],
            peer="import click, sqlalchemy",
            theirs=took["imports"],
            wanted=1,
        ),
    ]


def _fill(folder: Path) -> None:
    from promptreg import Registry
    from samples import base_model, soft_prompt

    url = f"{folder}/promptreg.db"
    Registry.upgrade(url)
    with Registry.open(url, f"{folder}/objects") as registry:
        known = registry.add_base(base_model(name="bench"))
        for index in range(5):
            registry.push(
                soft_prompt(index),
                task=f"task-{index}",
                base=str(known.fingerprint),
                metrics={"accuracy": 0.9},
            )
