"""The entry point of the command."""

import gc

__all__ = ["run"]


def run() -> None:
    """Run the command."""
    # Collecting while modules load costs a fifth of the start-up and frees nothing.
    gc.set_threshold(50_000)
    from promptreg_cli.main import main

    main(prog_name="promptreg")


if __name__ == "__main__":
    run()
