"""The values that settings of the data may have. `--help` shows them without importing torch."""

BUILT_IN = ("digits", "cifar10", "cifar100")
AUGMENTS = ("auto", "crop", "crop_flip", "resized_crop", "none")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CROP_MODES = ("center", "squash", "border")
SMALL = 64  # pixels along an edge: images no larger keep their size, and are kept in memory
