"""What settings of detection data may be: `--help` tells it without importing torch."""

AUGMENTS = ("none", "flip", "multiscale", "lsj", "ssd")
EMPTY_IMAGES = ("drop", "keep")
