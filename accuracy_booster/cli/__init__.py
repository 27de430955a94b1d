"""The command line `accuracy-booster`.

`program.main` parses the words, runs one command of `commands.COMMANDS` and prints what it found:
results on stdout, progress, warnings and errors on stderr.
"""

from accuracy_booster.cli.commands import COMMANDS
from accuracy_booster.cli.program import main

__all__ = ["COMMANDS", "main"]
