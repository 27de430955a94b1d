"""Boosted names in timm's registry: `timm.create_model("ab_resnet50.ab")` and all that follows.

    ab.integrations.timm.register()
    model = timm.create_model("ab_resnet50.ab", pretrained=True, num_classes=10)

`boosted_names` says what a name means. The base network is built, and its weights are loaded, by
timm's own builder; then it is boosted. What timm keeps of a network's arguments (`config.json` of
`timm.models.save_for_hf`) names the boosted architecture, its block and where the gates start.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib.metadata import version
from types import ModuleType
from typing import Any

from torch import nn

from accuracy_booster.blocks import list_recipes
from accuracy_booster.errors import unknown
from accuracy_booster.integrations.boosted_names import (
    PREFIX,
    Boosting,
    boosting,
    is_block,
    many_objects,
    named,
)
from accuracy_booster.integrations.timm_networks import register_networks
from accuracy_booster.integrations.timm_weights import GateWeights, gates_in_weights
from accuracy_booster.models.libraries import BOOSTS
from accuracy_booster.surgery import gate_record

MODULE = f"{__name__}.boosted"  # timm lists the part after the last point as the names' module
# Modules of timm whose networks work on tokens throughout and have no feature maps to boost. What
# else cannot be boosted says so when it is created: finding out takes a second for each.
WITHOUT_MAPS = frozenset(
    (
        *("beit", "cait", "coat", "convit", "crossvit", "davit", "deepseek_vit", "deit", "eva"),
        *(
            "gemma4_vit",
            "hiera",
            "hieradet_sam2",
            "mlp_mixer",
            "mvitv2",
            "naflexvit",
            "nest",
            "pit",
            "pvt_v2",
        ),
        *(
            "qwen3_vit",
            "sequencer",
            "swin_transformer",
            "swin_transformer_v2",
            "swin_transformer_v2_cr",
            "tnt",
            "twins",
            "vision_transformer",
        ),
        *("vision_transformer_relpos", "vision_transformer_sam", "volo"),
    )
)


def register() -> list[str]:
    """Put the boosted names into timm's registry, so that `timm.create_model` knows them.

    The name `accuracy_booster` is put there too, for the networks that timm does not have
    (`timm_networks`). What timm has is left as it is. Networks that were registered since the last
    call are added. `timm.list_models()` without a filter lists the boosted names too;
    `exclude_filters="ab_*"` leaves them out.

    Returns:
        All boosted architectures that are registered, in timm's order.

    Raises:
        ValueError: if the installed timm is too old.
    """
    import timm
    from timm.models import _registry as registry

    if (reason := why_too_old()) is not None:
        raise ValueError(reason)

    register_networks()
    module = sys.modules.setdefault(MODULE, ModuleType(MODULE, "Boosted networks of timm."))
    if not hasattr(module, "default_cfgs"):
        module.default_cfgs = {}  # type: ignore[attr-defined]
    blocks = list_recipes()
    with many_objects():
        for base in timm.list_models():
            build, name = registry.model_entrypoint(base), f"{PREFIX}{base}"
            if hasattr(build, BOOSTS) or build.__module__.rpartition(".")[2] in WITHOUT_MAPS:
                continue
            if not timm.is_model(name):
                _add(module, name, base, build, blocks)
    return timm.list_models(f"{PREFIX}*", module=MODULE.rpartition(".")[2])


def why_too_old() -> str | None:
    """Why the installed timm cannot have boosted names; None if it can.

    Older ones write no arguments of a network into its `config.json`. A network with other gates
    than the default ones would come back with those, in silence where the weights fit both.
    """
    from timm.models import _hub as hub

    if hasattr(hub, "get_model_args"):
        return None
    return (
        f"boosted names need timm 1.0.31 or newer, and this is timm {version('timm')}, which does "
        "not keep which block a saved network has: pip install -U timm; or boost the network "
        "itself, ab.boost(timm.create_model(...))"
    )


class _BlockConfig:
    """The config of `ab_NAME.BLOCK`: that of the default weights, with the block as its tag.

    timm copies a config deeply before it gives it away; only then is it made. There are 28 for each
    network, which would be 50 MB.
    """

    __slots__ = ("block", "config")

    def __init__(self, config: Any, block: str):
        self.config, self.block = config, block

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        config = deepcopy(self.config, memo)
        config.tag = self.block
        return config

    def __getattr__(self, name: str) -> Any:
        return getattr(self.config, name)


def _add(module: ModuleType, name: str, base: str, build: Callable, blocks: list[str]) -> None:
    """Register the boosted name of one base, with the tags of its weights and of the blocks."""
    from timm.models import DefaultCfg, register_model
    from timm.models import _registry as registry

    configs: dict[str, Any] = registry._model_pretrained_cfgs  # timm's functions copy it deeply
    default: Any = registry._model_default_cfgs.get(base)  # annotated wrongly in timm
    if default is not None:
        tagged = {tag: configs[f"{base}.{tag}" if tag else base] for tag in default.tags}
        module.default_cfgs[name] = DefaultCfg(deque(tagged), tagged, default.is_pretrained)
    entry = named(_builder(name, base, build), name, MODULE, base)
    setattr(module, name, entry)
    register_model(entry)
    if name not in configs:
        return
    # A block's tag is known and not listed, or `list_models` would have 28 names for each network.
    tags = [f"{name}.{block}" for block in blocks]
    configs.update(zip(tags, (_BlockConfig(configs[name], block) for block in blocks), strict=True))
    if configs[name].has_weights:
        registry._model_has_pretrained.update(tags)


def _builder(name: str, base: str, build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def entry(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        *,
        block: str | None = None,
        init: str | None = None,
        where: Any = None,
        skip: Any = None,
        input_size: tuple[int, int, int] | None = None,
        grammar: int | None = None,
        **options: Any,
    ) -> nn.Module:
        from timm.layers import is_scriptable

        if is_scriptable():
            raise ValueError(
                f"{name}: torch.jit.script cannot compile gates, so scriptable=True (--torchscript)"
                " is not supported; trace, compile or export the network"
            )
        tag, pretrained_cfg = _tag_and_config(base, name, pretrained_cfg)
        request = boosting(
            name,
            tag,
            block=block,
            init=init,
            where=where,
            skip=skip,
            input_size=input_size,
            grammar=grammar,
        )
        gates = None
        if pretrained:
            gates = gates_in_weights(
                base, pretrained_cfg, pretrained_cfg_overlay, options.get("cache_dir")
            )
        if gates is not None:
            if request.options.get("where") == "attention":
                gates = _with_attention(gates, request, build(**options))
            pretrained_cfg, pretrained_cfg_overlay = gates.config_of_base, None
        model = build(
            pretrained=pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            **options,
        )
        request.apply(model)
        if gates is not None:
            gates.load(model, request.name, whole=not options.get("features_only"))
        return _described(model, request, tag, gates)

    return entry


def _with_attention(gates: GateWeights, request: Boosting, fresh: nn.Module) -> GateWeights:
    """Weights for the attention modules that timm builds and gates replace, from a fresh base."""
    state = fresh.state_dict()
    return gates.with_replaced(state, gate_record(request.apply(fresh))["replaced"])


def _tag_and_config(base: str, name: str, config: Any) -> tuple[str | None, Any]:
    """The named block that a config of timm holds as its tag, and the config of the base.

    Raises:
        ValueError: for a tag that is neither a block nor one of the base's weights.
    """
    from timm.models import get_arch_pretrained_cfgs

    if isinstance(config, str):
        if is_block(config):
            return config, None
        weights = get_arch_pretrained_cfgs(base)
        if weights and f"{base}.{config}" not in weights:
            tags = [known.partition(".")[2] for known in weights]
            raise unknown("tag", config, [*filter(None, tags), *list_recipes()], f"of {name}")
        return None, config
    tag = config.get("tag") if isinstance(config, Mapping) else getattr(config, "tag", None)
    return (tag if tag and is_block(tag) else None), config


def _described(
    model: nn.Module, request: Boosting, tag: str | None, gates: GateWeights | None
) -> nn.Module:
    """Have a boosted network say what it is where timm looks for that; returns it."""
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    if gates is not None:
        config.pop("state_dict", None)
        config.update(gates.source)
    config["architecture"] = request.name.partition(".")[0]
    if tag is not None:
        config["tag"] = tag
    model._model_args = request.options  # type: ignore[assignment]
    return model
