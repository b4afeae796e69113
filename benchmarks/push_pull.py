"""Push and pull: a 100 x 640 float32 prompt, in process, SQLite and SeaweedFS."""

import contextlib
import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import Row, medians

if TYPE_CHECKING:
    from promptreg import SoftPrompt


_TOKENS, _WIDTH = 100, 640


def run() -> list[Row]:
    """Measure a push and a cold pull beside MLflow doing the same, and beside the bare PUT and GET."""
    with _seaweedfs() as server, tempfile.TemporaryDirectory() as folder:
        ours = _ours(server, Path(folder))
        peer = _mlflow(server, Path(folder))
        client, data = server.client(), _prompt(0).tensors["prompt_embeddings"].data
        keys = (f"bare/{index}" for index in itertools.count())
        client.put_object(Bucket=server.bucket, Key="bare", Body=data)

        def get() -> bytes:
            data: bytes = client.get_object(Bucket=server.bucket, Key="bare")["Body"].read()
            return data

        took = medians(
            {
                "push": ours["push"],
                "flush": ours["flush"],
                "pull": ours["pull"],
                "mlflow push": peer["push"],
                "mlflow pull": peer["pull"],
                "put": lambda: client.put_object(Bucket=server.bucket, Key=next(keys), Body=data),
                "get": get,
            },
            repeat=31,
        )
    push, pull = took["push"], took["pull"]
    recorded = push + took["flush"]
    return [
        Row(
            what="push", ours=push, peer="MLflow", theirs=took["mlflow push"], wanted=3, least=True
        ),
        Row(what="push", ours=push, peer="bare PUT", theirs=took["put"], wanted=2),
        Row(
            what="push, and its record",
            ours=recorded,
            peer="bare PUT",
            theirs=took["put"],
            wanted=2,
        ),
        Row(
            what="pull, cold cache",
            ours=pull,
            peer="MLflow",
            theirs=took["mlflow pull"],
            wanted=3,
            least=True,
        ),
        Row(what="pull, cold cache", ours=pull, peer="bare GET", theirs=took["get"], wanted=2),
    ]


def _prompt(seed: int) -> "SoftPrompt":
    from samples import soft_prompt

    facts = {"lr": 0.3, "steps": 200, "seed": seed}
    return soft_prompt(seed, tokens=_TOKENS, width=_WIDTH, hyperparameters=facts)


def _ours(server: Any, folder: Path) -> dict[str, Callable[[], object]]:
    from promptreg import Registry
    from samples import base_model

    os.environ["AWS_ACCESS_KEY_ID"] = server.access_key
    os.environ["AWS_SECRET_ACCESS_KEY"] = server.secret_key
    os.environ["PROMPTREG_CACHE_DIR"] = str(folder / "cache")
    url = f"sqlite:///{folder}/promptreg.db"
    Registry.upgrade(url)
    registry = Registry.open(url, server.url("ours"))
    base = registry.add_base(base_model(width=_WIDTH, layers=235, name="bench"))
    prompts = iter([_prompt(seed) for seed in range(1, 40)])
    versions = itertools.count(1)

    def push() -> None:
        registry.push(
            next(prompts), task="bench", base=str(base.fingerprint), metrics={"accuracy": 0.9}
        )

    # Each turn pulls what the turn's push has just made: never seen before, so the cache is cold for it.
    pull = lambda: registry.pull(f"bench@{next(versions)}")  # noqa: E731
    return {"push": push, "flush": registry.flush, "pull": pull}


def _mlflow(server: Any, folder: Path) -> dict[str, Callable[[], object]]:
    os.environ["MLFLOW_S3_ENDPOINT_URL"] = server.endpoint
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    client = MlflowClient()
    experiment = client.create_experiment("bench", f"s3://{server.bucket}/mlflow")
    client.create_registered_model("bench")
    prompt, config = folder / "prompt.bin", folder / "config.json"
    prompt.write_bytes(_prompt(0).tensors["prompt_embeddings"].data)
    config.write_text("{}")
    runs: list[str] = []

    def push() -> None:
        info = client.create_run(experiment).info
        client.log_batch(
            info.run_id,
            metrics=[Metric("accuracy", 0.9, 0, 0)],
            params=[Param(name, "1") for name in ("lr", "steps", "seed")],
        )
        for path in (prompt, config):
            client.log_artifact(info.run_id, str(path))
        client.create_model_version("bench", info.artifact_uri, info.run_id)
        runs.append(info.run_id)

    def pull() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as destination:
            client.download_artifacts(runs[-1], "", destination)

    return {"push": push, "pull": pull}


@contextlib.contextmanager
def _seaweedfs() -> Iterator[Any]:
    """Start the SeaweedFS of the tests."""
    import engines_s3

    with (
        tempfile.TemporaryDirectory() as folder,
        engines_s3.running_seaweedfs(Path(folder)) as server,
    ):
        yield server
