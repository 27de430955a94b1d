"""The choices of a detector. The file imports nothing, so that `--help` imports no torch."""

HEADS = ("fpn", "c4")
NORMS = ("auto", "frozen", "synchronised", "normal")
GATES = ("frozen", "trained")
AUGMENTS = ("flip", "multiscale", "lsj", "ssd", "none")
EMPTY_IMAGES = ("drop", "keep")
