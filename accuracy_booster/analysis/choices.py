"""What `compare` and `bench` measure by default; `--help` tells it without importing torch."""

COMPARED_BLOCKS = ("none", "se", "ab", "ab_plus")  # of `ab.compare`, which trains each of them
BENCHED_BLOCKS = ("none", "se", "eca", "cbam", "ab", "ab_plus")  # of `ab.bench`
