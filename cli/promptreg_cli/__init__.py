"""The command ``promptreg``: parse, one library call, print."""
