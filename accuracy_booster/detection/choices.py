"""What settings of a detector may be: `--help` tells it without importing torch."""

HEADS = ("fpn", "c4")
NORMS = ("auto", "frozen", "synchronised", "normal")
GATES = ("frozen", "trained")
AUGMENTS = ("flip", "multiscale", "lsj", "ssd", "none")
EMPTY_IMAGES = ("drop", "keep")
