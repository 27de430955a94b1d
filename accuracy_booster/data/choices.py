"""The values that settings of the data may have. `--help` lists them without importing torch."""

BUILT_IN = ("digits", "cifar10", "cifar100")
AUGMENTS = ("auto", "crop", "crop_flip", "resized_crop", "none")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CROP_MODES = ("center", "squash", "border")
