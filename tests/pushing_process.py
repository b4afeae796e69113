"""A process that pushes to a database beside others; run by the tests as a script.

It says ``ready`` and waits for a line; then it registers versions and writes a line for each: its reference and
whether it was new.
"""

import argparse
import sys

from promptreg.database import Database, upgrade
from version_examples import add_bases, new_version


def main() -> None:
    """Push as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--contents", nargs="*", default=[])
    parser.add_argument("--alias", action="append", default=[])
    parser.add_argument("--make", action="store_true", help="open with upgrade=True")
    parser.add_argument("--upgrade", action="store_true", help="upgrade, and do nothing else")
    parser.add_argument("--forever", action="store_true")
    arguments = parser.parse_args()
    _say("ready")
    sys.stdin.readline()
    if arguments.upgrade:
        _say(*upgrade(arguments.url))
        return
    database = Database.open(arguments.url, upgrade=arguments.make)
    add_bases(database)
    contents = list(arguments.contents)
    while contents:
        content = contents.pop(0)
        aliases = tuple(arguments.alias)
        version, created = database.register(new_version(content, aliases=aliases))
        _say(version.ref, created)
        if arguments.forever:
            contents.append(f"{content}'")
    database.close()


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
