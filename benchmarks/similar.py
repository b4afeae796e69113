"""Similar: the closest of 10,000 registered prompts [20, 640], on SQLite and a directory."""

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measuring import Row, medians

if TYPE_CHECKING:
    from collections.abc import Callable

    from promptreg import Registry

_PROMPTS = 10_000
_TASKS = 500
_TOKENS, _WIDTH = 20, 640
_REFERENCE = "task-0@1"


def run() -> list[Row]:
    """Measure the first call, which reads all prompts, and later ones, beside a loop over pulled prompts."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMPTREG_CACHE_DIR"] = f"{folder}/cache"
        with _registry(Path(folder)) as registry:
            from promptreg.tuning import similar

            first = _seconds(lambda: similar(registry, _REFERENCE))
            later = medians({"later": lambda: similar(registry, _REFERENCE)}, repeat=7)["later"]
            peer = _seconds(lambda: _loop(registry))
            again = _seconds(lambda: _loop(registry))
    loop = "a numpy loop over pulled prompts"
    return [
        Row(what="similar, first call", ours=first, peer=loop, theirs=peer, wanted=1),
        Row(what="similar, later calls", ours=later, peer="", theirs=None, wanted=1),
        Row(
            what="similar, later calls",
            ours=later,
            peer=f"{loop}, cached",
            theirs=again,
            wanted=10,
            least=True,
        ),
    ]


def _registry(folder: Path) -> "Registry":
    """Return a registry of real prompts, whose objects are written without waiting for the disk."""
    from prompt_examples import tuned_prompt
    from promptreg import Registry
    from promptreg.artifacts import dump_tensors
    from promptreg.database import Database, NewVersion
    from promptreg.digests import Digest
    from promptreg.manifests import manifest_bytes
    from promptreg.objects.files import FileTree
    from promptreg.prompts import TaskType
    from samples import base_model

    url, objects = f"sqlite:///{folder}/promptreg.db", FileTree(folder / "objects", durable=False)
    Registry.upgrade(url)
    registry = Registry.open(url, str(folder / "objects"))
    base = registry.add_base(base_model(width=_WIDTH, layers=235, name="bench"))
    database = Database.open(url)
    for number in range(_PROMPTS):
        prompt = tuned_prompt(_TOKENS, _WIDTH, seed=number, task_type=TaskType.CAUSAL_LM)
        data = dump_tensors(prompt.tensors)
        digest = Digest.of(data)
        objects.write(digest.key, data)
        manifest = manifest_bytes(prompt, base=base.fingerprint, tensors=digest, size=len(data))
        new = NewVersion(
            task=f"task-{number % _TASKS}",
            base=base.fingerprint,
            digest=digest,
            size=len(data),
            manifest=manifest,
            method=prompt.method,
            task_type=TaskType.CAUSAL_LM,
            placement=prompt.placement,
            num_virtual_tokens=_TOKENS,
            token_dim=_WIDTH,
            by="bench",
            idempotency_key=str(Digest.of(manifest)),
        )
        database.register(new)
    database.close()
    return registry


def _loop(registry: "Registry") -> list[tuple[float, str]]:
    """Find the closest as one would without an index: pull each prompt and compare."""
    import numpy as np

    from promptreg.artifacts.arrays import to_array

    def mean(ref: str) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        rows = to_array(registry.pull(ref).prompt.tensors["task_embedding"])
        token = rows.mean(axis=0)
        unit: np.ndarray[tuple[int], np.dtype[np.float32]] = token / np.linalg.norm(token)
        return unit

    own = mean(_REFERENCE)
    found: list[tuple[float, str]] = []
    after: str | None = None
    while True:
        page = registry.list(limit=1000, after=after)
        found += [(float(own @ mean(each.ref)), each.ref) for each in page.versions]
        after = page.next
        if after is None:
            return sorted(found, reverse=True)[:10]


def _seconds(step: "Callable[[], object]") -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
