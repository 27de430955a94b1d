"""The paper's tables, each made again by one call and set beside what is printed."""

from accuracy_booster.reproduction.counts import Check, Counts, counts

__all__ = ["Check", "Counts", "counts"]
