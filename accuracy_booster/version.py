"""The package's version, in a file that every other file may import."""

__version__ = "0.3.0"
