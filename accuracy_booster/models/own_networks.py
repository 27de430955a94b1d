"""Networks that the caller gives as an object, a function or an import path, not by a name.

`OwnNetwork` makes fresh copies of such a network. The caller's own object never changes.
"""

# C channels, H W space, K classes

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from accuracy_booster.errors import is_out_of_memory, shortened, shown
from accuracy_booster.models.heads import classifier, heads, outputs_of, replace_heads
from accuracy_booster.models.importing import import_path, is_import_path
from accuracy_booster.models.input_conv import channels_of
from accuracy_booster.progress import note
from accuracy_booster.surgery.modes import in_eval_mode
from accuracy_booster.surgery.refusing import is_lazy, refuse_wrapped
from accuracy_booster.surgery.state import state_of
from accuracy_booster.surgery.wrappers import unwrapped

PREFIX = "own/"  # of the name that stands for such a network in a configuration
PASSED = ("num_classes", "in_chans")  # arguments that a function may have


def is_own(name: str) -> bool:
    """Whether a network's name in a configuration stands for one that the caller must give."""
    return name.startswith(PREFIX) or is_import_path(name)


@dataclass(frozen=True)
class OwnNetwork:
    """A network of the caller's.

    Attributes:
        name: what the configuration calls it: `own/CLASS`, or the import path that was given.
        make: makes it, from those of `PASSED` that are in `takes`.
        takes: the names of arguments that `make` has.
        module: the object that is copied; None for a function, whose networks are fresh.
    """

    name: str
    make: Callable[..., Any]
    takes: tuple[str, ...] = ()
    module: nn.Module | None = None

    @property
    def trained(self) -> bool:
        """Whether its weights are taken as trained: those of an object are."""
        return self.module is not None

    def __call__(self, num_classes: int | None = None, in_chans: int | None = None) -> nn.Module:
        """A new network in float32 on the CPU; an object's copy has the object's weights.

        Raises:
            ValueError: if it cannot be made or copied, or cannot be trained as it is.
        """
        given = {"num_classes": num_classes, "in_chans": in_chans}
        given = {n: v for n, v in given.items() if n in self.takes and v is not None}
        try:
            network = self.make(**given)
        except ValueError:
            raise
        except Exception as e:  # it is the caller's code, which may raise anything
            if is_out_of_memory(e):
                raise
            raise ValueError(f"{self.name} cannot be made: {_reason(e)}") from e
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"{self.name} gave {shown(network)}, and a network is an nn.Module; name a "
                "function that returns one, or its class"
            )
        if self.module is None:
            _check(network)
        network.zero_grad(set_to_none=True)  # a copy has the gradients too
        return network.float().cpu()

    def check_channels(self, network: nn.Module, in_chans: int) -> None:
        """Raise ValueError if its first convolution takes images of other channels."""
        chans = channels_of(network)
        if chans is not None and chans != in_chans:
            raise ValueError(
                f"{self.name} takes images of {chans} channels, and the data have "
                f"{in_chans}; give a network for such images"
            )


def own_network(given: Any) -> OwnNetwork | None:
    """What `given` means as a network of the caller's; None for a name of `list_models()`.

    Args:
        given: a module, whose weights are kept; a function or a class that makes one, without
            arguments or with `num_classes` and `in_chans`; or the import path of one of these,
            "package.module:function" or "file.py:function".

    Raises:
        ValueError: for anything else, an import path that leads to nothing, a function that needs
            other arguments, or a module that cannot be copied.
    """
    path = None
    if isinstance(given, str):
        if not is_import_path(given):
            return None
        path, given = given, import_path(given)
    if isinstance(given, nn.Module):
        inner = unwrapped(given)
        _check(inner)
        name = path or PREFIX + type(inner).__name__
        return OwnNetwork(name, lambda: _copy(inner), module=inner)
    if not callable(given):
        raise ValueError(
            f"model={shown(path or given)} must be a network's name, a module, or a function or "
            "class that makes one"
        )
    return OwnNetwork(path or PREFIX + _name_of(given), given, _arguments(given, path))


def _name_of(function: Any) -> str:
    inner = getattr(function, "func", function)  # of functools.partial
    name = getattr(inner, "__name__", type(inner).__name__)
    return name if name.isidentifier() else "network"  # "<lambda>"


def _arguments(function: Callable[..., Any], path: str | None) -> tuple[str, ...]:
    """Which of `PASSED` a function has.

    Raises:
        ValueError: if it has others without a default.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of C
        return ()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind not in several
        and (p.name not in PASSED or p.kind is p.POSITIONAL_ONLY)
    ]
    if needed:
        raise ValueError(
            f"{path or _name_of(function)} needs the arguments {', '.join(needed)}; give a "
            f"function that needs none but {' and '.join(PASSED)}, such as "
            f"lambda: {_name_of(function)}(...)"
        )
    return tuple(p.name for p in parameters if p.name in PASSED and p.kind not in several)


def _check(network: nn.Module) -> None:
    """Raise ValueError for a network that cannot be copied and trained as it is."""
    refuse_wrapped(network)
    name = type(network).__name__
    if (report := state_of(network).fast_path) is not None:
        raise ValueError(f"{name} is {report.kind}; give ab.unfuse(model): a training fuses itself")
    if is_lazy(network):
        raise ValueError(
            f"{name} has lazy modules, whose weights have no shapes yet; run an image through it "
            "first, as network(torch.zeros(1, 3, 224, 224))"
        )
    if any(p.is_meta for p in network.parameters()):
        raise ValueError(f"{name} is on the meta device and has no values; load its weights first")


def _copy(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except Exception as e:  # hooks and attributes may hold anything
        if is_out_of_memory(e):
            raise
        raise ValueError(
            f"{type(network).__name__} cannot be copied ({_reason(e)}), and a training leaves your "
            "object as it is; give a function that makes it: ab.train(lambda: ..., ...)"
        ) from e


def _reason(error: Exception) -> str:
    return shortened(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)


def fit_head(network: nn.Module, num_classes: int, input_size: tuple[int, int, int]) -> str:
    """Give a network a new head if it has another number of outputs, in place.

    Returns:
        A line that says so, or "".

    Raises:
        ValueError: if the layer that gives the logits cannot be found.
    """
    try:
        known = outputs_of(classifier(network)[1])
    except ValueError:  # no linear layer and no convolution: `Trainer.check_network` tries it
        return ""
    if known == num_classes or (before := _outputs(network, input_size)) == num_classes:
        return ""
    names = ", ".join(heads(network))
    replace_heads(network, num_classes)
    if isinstance(getattr(network, "num_classes", None), int):
        network.num_classes = num_classes  # type: ignore[assignment]
    if before is not None and _outputs(network, input_size) != num_classes:
        raise ValueError(
            f"{type(network).__name__} gives {before} logits, the data have {num_classes} classes, "
            f"and its head cannot be found ({names} is not it); give a network with {num_classes} "
            "outputs"
        )
    return f"a new head for {num_classes} classes ({names}): the network's own has {known}"


def _outputs(network: nn.Module, input_size: tuple[int, int, int]) -> int | None:
    """How many values the network gives for an image; None if that cannot be told here."""
    blank = torch.zeros(1, *input_size)
    try:
        with in_eval_mode(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
            out = network(blank)
    except Exception:  # what the network cannot take is told where the training tries it
        return None
    out = getattr(out, "logits", out)
    out = out[0] if isinstance(out, (tuple, list)) and out else out
    return out.shape[1] if isinstance(out, torch.Tensor) and out.ndim == 2 else None


def note_frozen(network: nn.Module) -> None:
    """Print a line if some parameters do not learn, since the caller has frozen them."""
    frozen = sum(not p.requires_grad for p in network.parameters())
    if frozen:
        note(f"{frozen} parameter tensors of the network do not require gradients and stay as is")
