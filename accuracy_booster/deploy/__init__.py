"""Networks made ready for inference."""

from accuracy_booster.deploy.fold import fold

__all__ = ["fold"]
