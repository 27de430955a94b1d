"""The paper's networks without gates, and one function that makes any network, boosted or not."""

from accuracy_booster.models.creating import create_model
from accuracy_booster.models.heads import classifier
from accuracy_booster.models.listing import list_models
from accuracy_booster.models.registry import MODELS, builder
from accuracy_booster.models.resnet_cifar import from_akamaster

__all__ = ["MODELS", "builder", "classifier", "create_model", "from_akamaster", "list_models"]
