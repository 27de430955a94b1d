"""The values that settings of the data may have. `--help` shows them without importing torch."""

BUILT_IN = ("digits", "cifar10", "cifar100")
AUGMENTS = ("auto", "crop", "crop_flip", "resized_crop", "none")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
# the first words of timm's texts for `auto_augment`
AUTO_AUGMENTS = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")
BALANCES = ("none", "balanced")  # of class_weights and of sampling
CROP_MODES = ("center", "squash", "border")
MOST_CROP_PCT = 2.0  # that a network or a file may say; timm's largest is 1.15
SMALL = 64  # pixels along an edge: images no larger keep their size, and are kept in memory
