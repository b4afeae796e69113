"""Run the benchmarks: ``python -m benchmarks [NAME …]``."""

import sys
from importlib import import_module
from pathlib import Path

from benchmarks.measuring import print_rows

NAMES = (
    "startup",
    "listing",
    "push_pull",
    "fingerprinting",
    "attaching",
    "mixed_tasks",
    "similar",
    "tuning",
)


def main() -> None:
    """Run those named, or all."""
    # The samples, the real base model and the S3 server are those of the tests.
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    chosen = sys.argv[1:] or NAMES
    unknown = set(chosen) - set(NAMES)
    if unknown:
        sys.exit(
            f"no benchmark is named {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}"
        )
    for name in chosen:
        module = import_module(f"benchmarks.{name}")
        print_rows((module.__doc__ or name).splitlines()[0], module.run())


if __name__ == "__main__":
    main()
