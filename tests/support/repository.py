"""Where the repository's files stand: what a test needs of it that is not in the package."""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # the package may be installed somewhere else, as in CI
