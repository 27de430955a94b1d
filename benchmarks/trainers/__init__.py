"""Other people's trainers with boosted networks: one file for each package, all alike.

A file has `PACKAGE`, the distribution whose version is written, and `steps(folder)`, which does the
steps in a folder of its own and yields a `Step` after each.
"""
