"""The paper's networks, plain, and one function that makes them."""

from accuracy_booster.models.create import MODELS, builder, create_model, list_models
from accuracy_booster.models.heads import classifier
from accuracy_booster.models.resnet_cifar import from_akamaster

__all__ = ["MODELS", "builder", "classifier", "create_model", "from_akamaster", "list_models"]
