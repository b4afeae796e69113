"""The entry point of the command."""

import errno
import gc
import os
import sys

__all__ = ["run"]


def run() -> None:
    """Run the command."""
    # Collecting while modules load costs a fifth of the start-up and frees nothing.
    gc.set_threshold(50_000)
    from promptreg_cli.main import main

    try:
        main(prog_name="promptreg")
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise
        # What was printed has nowhere to go, and Python would say so once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"Error: cannot write the output: {error.strerror}")


if __name__ == "__main__":
    run()
