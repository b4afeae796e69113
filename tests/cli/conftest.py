from cli_shell import base, reverse, shell, shout

__all__ = ["base", "reverse", "shell", "shout"]
