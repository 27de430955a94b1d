"""Gates in the networks that ultralytics trains (YOLO, RT-DETR).

```python
import accuracy_booster as ab
from ultralytics import YOLO

boosted = ab.integrations.ultralytics.trainer("ab")
YOLO("yolo11n.pt").train(data="coco8.yaml", trainer=boosted)
```
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from accuracy_booster.blocks import Recipe
from accuracy_booster.blocks.named import name_and_start
from accuracy_booster.surgery import attached, boost, wrap_ultralytics
from accuracy_booster.surgery.configurations import record_in
from accuracy_booster.surgery.planning import starting_recipe
from accuracy_booster.surgery.skipping import Skip
from accuracy_booster.surgery.ultralytics_networks import BEFORE_TRAINING, check_gates
from accuracy_booster.surgery.where import Where


def trainer(
    block: str | Recipe = "ab",
    *,
    init: str = "identity",
    where: Where = "residual",
    skip: Skip = None,
    base: type | None = None,
    **given: Any,
) -> Callable[..., Any]:
    """What `model.train(trainer=...)` of ultralytics takes to train a boosted network.

    The network is built and gets its pretrained weights as without it, and is then boosted. A
    network that has these gates already, such as that of a boosted checkpoint, keeps them.

    Args:
        block, where, skip: as for `ab.boost`.
        init: "identity", with which training starts from what the pretrained network computes, or
            "paper".
        base: the trainer to extend, a class of ultralytics or your own; by default that which
            ultralytics uses for the model and its task.
        given: nothing; what ultralytics calls this function with if it is given as the trainer.

    Returns:
        A function that makes the trainer. Its trainers can be pickled, as training on several GPUs
        needs.

    Raises:
        ValueError: for an unknown block or init, a base that is no class, or if this function
            itself is given as the trainer. The trainer raises it if the network has other
            gates already.
    """
    if "overrides" in given:
        raise ValueError(
            "trainer=ab.integrations.ultralytics.trainer is a function that makes the trainer; "
            'call it: trainer=ab.integrations.ultralytics.trainer("ab")'
        )
    if given:
        raise TypeError(f"trainer() got an unexpected keyword argument {min(given)!r}")
    starting_recipe(block, where, init)  # raises
    _check_base(base)
    wrap_ultralytics()
    settings = {"block": block, "init": init, "where": where, "skip": skip}

    def make(cfg: Any = None, overrides: dict[str, Any] | None = None, **given: Any) -> Any:
        extended = base or _trainer_of(overrides or {})
        name = f"Boosted{extended.__name__}"
        cls = type(name, (_BoostsItsNetwork, extended), {"boosting": settings})
        if cfg is not None:
            given["cfg"] = cfg
        return cls(overrides=overrides, **given)

    return make


class _BoostsItsNetwork:
    """What a trainer of ultralytics does more: its network has gates.

    Attributes:
        boosting: the arguments of `ab.boost`.
    """

    boosting: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(BEFORE_TRAINING, check_gates)  # type: ignore[attr-defined]

    def get_model(self, *args: Any, **kwargs: Any) -> nn.Module:
        network = super().get_model(*args, **kwargs)  # type: ignore[misc]
        recipe = starting_recipe(*(self.boosting[name] for name in ("block", "where", "init")))
        found = {gate.recipe for gate in attached(network).values()}
        if found - {recipe}:
            other = (found - {recipe}).pop()
            where, remedy = self._origin(record_in(kwargs.get("cfg")) is not None)
            raise ValueError(
                f"{where} has gates {_in_words(other)} already, and the trainer was made for "
                f"{_in_words(recipe)}; {remedy}"
            )
        return network if found else boost(network, **self.boosting)

    def _origin(self, of_the_model: bool) -> tuple[str, str]:
        """Where gates come from that are there before boosting, and what to do about them."""
        given, resumed = (vars(self).get(name) for name in ("args", "resume"))
        file = getattr(given, "pretrained", None)
        if of_the_model or resumed or not isinstance(file, (str, Path)):
            return (
                "the network",
                "train it without trainer=, or take its gates off with ab.unboost(model.model)",
            )
        return (
            f"the network of pretrained={str(file)!r}",
            "leave trainer= out and train with these gates, or give pretrained= other weights",
        )


def _check_base(base: Any) -> None:
    if base is None:
        return
    from ultralytics.engine.trainer import BaseTrainer

    if not (isinstance(base, type) and issubclass(base, BaseTrainer)):
        raise ValueError(
            f"base={base!r} must be a class of trainers, such as "
            "ultralytics.models.yolo.detect.DetectionTrainer or a subclass of it"
        )


def _in_words(recipe: Recipe) -> str:
    name, start = name_and_start(recipe)
    return f"{name!r} with init={start!r}" if start else repr(name)


def _trainer_of(overrides: dict[str, Any]) -> type:
    """The trainer that ultralytics uses for a model: its task's, or RT-DETR's, World's, YOLOE's."""
    from ultralytics import YOLO

    resumed = overrides.get("resume")
    path = resumed if isinstance(resumed, str) else overrides["model"]
    return YOLO(path, task=overrides.get("task"))._smart_load("trainer")
