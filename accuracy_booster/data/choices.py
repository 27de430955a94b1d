"""What settings of the data may be, and when: `--help` tells it without importing torch."""

BUILT_IN = ("digits", "cifar10", "cifar100")
AUGMENTS = ("auto", "crop", "crop_flip", "resized_crop", "none")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CROP_MODES = ("center", "squash", "border")
SMALL = 64  # pixels: images no larger are kept decoded in memory, at their own size
