"""Networks made ready for inference."""

from accuracy_booster.deploy.folding import fold

__all__ = ["fold"]
