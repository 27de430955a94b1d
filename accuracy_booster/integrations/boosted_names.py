"""The grammar of boosted names, which is the same for timm and torchvision.

    ab_NAME            the library's network NAME with the block AB
    ab_NAME.BLOCK      with another named block: ab_resnet50.se
    ab_NAME.WEIGHTS    timm only: with AB, and `pretrained=True` loads these weights

A block's text does not fit into a name, so every builder also takes `block=`. A name and its
options alone decide what a network computes from its state dict: a script makes the network anew
to validate or to resume, and gives the same name, but not always `pretrained=True`. So gates start
as the identity in every case, with and without pretrained weights.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accuracy_booster.blocks import Recipe, list_recipes
from accuracy_booster.blocks import recipe as as_recipe
from accuracy_booster.blocks.named import as_recorded
from accuracy_booster.blocks.versions import VERSION
from accuracy_booster.errors import shown
from accuracy_booster.models.libraries import BOOSTS
from accuracy_booster.surgery import boost
from accuracy_booster.surgery.where_text import write_where

PREFIX = "ab_"
DEFAULT_BLOCK = "ab"
ZERO_NORMS = ".*branches end in a norm whose weight is zero"


def is_block(tag: str) -> bool:
    """Whether the tag of a name is a named block."""
    if tag in list_recipes():
        return True
    groups = tag.removeprefix("ab_g")
    return groups != tag and groups.isdecimal()


@dataclass(frozen=True)
class Boosting:
    """How a base network of a library becomes the network of a boosted name.

    Attributes:
        name: the boosted name.
        recipe: the block.
        init: "identity" or "paper".
        options: what a configuration must hold to make the network again, as plain data.
        input_size: (C, H, W) of the example, or None for the network's own.
    """

    name: str
    recipe: Recipe
    init: str
    options: dict[str, Any]
    input_size: tuple[int, ...] | None

    def apply(self, model: nn.Module) -> nn.Module:
        """Boost a base network in place; returns it.

        Raises:
            ValueError: if it cannot be boosted so. The error begins with the boosted name.
        """
        where, skip = self.options.get("where", "residual"), self.options.get("skip")
        example = torch.zeros(1, *self.input_size) if self.input_size else None
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ZERO_NORMS)  # as it is in the base from scratch
                return boost(
                    model, self.recipe, example=example, where=where, skip=skip, init=self.init
                )
        except ValueError as e:
            raise ValueError(f"{self.name}: {e}") from None


def boosting(
    name: str,
    tag: str | None,
    *,
    block: str | None = None,
    init: str | None = None,
    where: Any = None,
    skip: Any = None,
    input_size: tuple[int, ...] | None = None,
    grammar: int | None = None,
) -> Boosting:
    """Check the options of a boosted name.

    Args:
        name: the boosted name without its tag.
        tag: the named block in the name, if there is one.
        block: a named block, or a text.
        init: "identity" or "paper". By default "identity", or "paper" for what cannot start as the
            identity: a block without parameters, and `where="attention"`.
        where, skip: as for `ab.boost`, as text.
        input_size: (C, H, W) of the images, for blocks with a weight for each position.
        grammar: the version of the blocks' grammar in which `block` was written.

    Raises:
        ValueError: if they cannot be used together, or cannot be kept as text.
    """
    if block is not None and not isinstance(block, str):
        raise ValueError(
            f"{name}: block={shown(block)} must be a text, such as 'se' or str(recipe)"
        )
    if tag is not None and block is not None and block != tag:
        raise ValueError(
            f"{name}.{tag} with block={shown(block)} names two blocks; leave one of them out"
        )
    block = as_recorded(tag or block or DEFAULT_BLOCK, VERSION if grammar is None else grammar)
    recipe = as_recipe(block)
    if init is None:
        init = "identity" if where != "attention" and _can_be_identity(recipe) else "paper"
    options: dict[str, Any] = {"block": block, "init": init, "grammar": VERSION}
    if where is not None:
        options["where"] = write_where(where)
    if skip is not None:
        options["skip"] = skip if isinstance(skip, str) else list(skip)
    size = None if input_size is None else tuple(int(side) for side in input_size)
    if size is not None:
        options["input_size"] = list(size)
    return Boosting(f"{name}.{tag}" if tag else name, recipe, init, options, size)


def _can_be_identity(recipe: Recipe) -> bool:
    try:
        recipe.as_identity()
    except ValueError:
        return False
    return True


def named(build: Callable[..., nn.Module], name: str, module: str, base: str) -> Callable:
    """Give a builder what registries read from it: its name and module; and the base's name."""
    build.__name__ = build.__qualname__ = name
    build.__module__ = module
    build.__doc__ = f"{base} with gates of accuracy_booster."
    setattr(build, BOOSTS, base)
    return build


@contextmanager
def many_objects() -> Iterator[None]:
    """Within it no garbage is collected, which would look through all of torch several times."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
