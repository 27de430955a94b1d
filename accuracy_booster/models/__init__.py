"""The paper's networks, plain, and one function that makes them."""

from accuracy_booster.models.create import MODELS, create_model, entry, list_models
from accuracy_booster.models.resnet_cifar import from_akamaster

__all__ = ["MODELS", "create_model", "entry", "from_akamaster", "list_models"]
