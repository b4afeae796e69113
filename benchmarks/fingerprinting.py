"""Fingerprints: 536 MB of weights on disk."""

import mmap
import subprocess
import sys

from benchmarks.measuring import Row, medians

_MEMORY = """
import sys
from promptreg.models.fingerprinting import from_files
from promptreg import models
def anonymous():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))
import threading, torch, transformers
before, peak, done = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch); watcher.start()
from_files(sys.argv[1], cache=False)
done.set(); watcher.join()
print(max(0, peak - before))
"""


def run() -> list[Row]:
    """Measure ``from_files`` beside raw BLAKE3 over the same mapped bytes."""
    from blake3 import blake3

    import promptreg
    from real.gemma import base_directory

    directory = base_directory()
    weights = directory / "model.safetensors"

    def raw() -> None:
        with (
            weights.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            blake3(data, max_threads=blake3.AUTO).digest()

    took = medians(
        {
            "ours": lambda: promptreg.from_files(directory, cache=False),
            "raw": raw,
            "again": lambda: promptreg.from_files(directory),
        },
        repeat=7,
    )
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(directory)], check=True, capture_output=True, text=True
    )
    print(
        f"extra anonymous memory while fingerprinting: {int(done.stdout) / 1024:.0f} MB (wanted: under 256 MB)"
    )
    return [
        Row(
            what="from_files, 536 MB",
            ours=took["ours"],
            peer="raw blake3",
            theirs=took["raw"],
            wanted=0.8,
            least=True,
        ),
        Row(what="from_files, unchanged", ours=took["again"], peer="", theirs=None, wanted=0.005),
    ]
