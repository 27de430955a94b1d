"""Gates in the networks of ultralytics, which it builds anew and fills by the names of tensors.

`YOLO(...).train()` trains a network of its own making. `BaseModel.load` copies the tensors that
both networks have, and `initialize_weights` sets norms that are of the exact class. What they leave
out they leave out without a word. So these three functions are wrapped when gates are made or
unpickled while ultralytics is imported.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from accuracy_booster.blocks.gate_norm import GateNorm
from accuracy_booster.blocks.named import name_and_start
from accuracy_booster.surgery.gate_records import gate_record
from accuracy_booster.surgery.gated import is_of_gate, ungated_class
from accuracy_booster.surgery.gating import WHEN_GATES_ARE_MADE
from accuracy_booster.surgery.listing import attached
from accuracy_booster.surgery.rebuilding import rebuild_gates
from accuracy_booster.surgery.wrappers import unwrapped

BEFORE_TRAINING = "on_pretrain_routine_end"  # ultralytics' name of the moment


def wrap_ultralytics() -> None:
    """Wrap the three functions, once, if ultralytics has been imported."""
    tasks, engine = map(sys.modules.get, ("ultralytics.nn.tasks", "ultralytics.engine.model"))
    for owner, name, wrapper in (
        (getattr(tasks, "BaseModel", None), "load", _load),
        (tasks, "initialize_weights", _initialize_weights),
        (getattr(engine, "Model", None), "train", _train),
    ):
        function = getattr(owner, name, None)
        if function is not None and not hasattr(function, "_knows_gates"):
            setattr(owner, name, _wrapped(function, wrapper))


WHEN_GATES_ARE_MADE.append(wrap_ultralytics)


def _wrapped(function: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(function, *args, **kwargs)

    call._knows_gates = True  # type: ignore[attr-defined]
    return call


def _load(load: Callable[..., Any], network: Any, /, weights: Any, *args: Any, **more: Any) -> Any:
    """`BaseModel.load`: the gates of the weights are put on the network first."""
    source = weights.get("ema") or weights["model"] if isinstance(weights, dict) else weights
    if isinstance(source, nn.Module) and attached(source):
        take_gates(network, source)
    return load(network, weights, *args, **more)


def _initialize_weights(initialize: Callable[..., Any], /, model: nn.Module) -> None:
    """`initialize_weights`: gated norms, too, get ultralytics' epsilon and momentum.

    It asks for the exact class, and a network that is built from a configuration with the record of
    its gates has gated norms by then.
    """
    classes = {m: type(m) for m in model.modules() if "_ungated_class" in vars(type(m))}
    try:
        for module in classes:
            setattr(module, "__class__", ungated_class(module))  # noqa: B010 - for mypy
        initialize(model)
    finally:
        for module, cls in classes.items():
            setattr(module, "__class__", cls)  # noqa: B010


def _train(train: Callable[..., Any], model: Any, /, *args: Any, **kwargs: Any) -> Any:
    """`Model.train`: the network that is trained has the gates of the model's network."""
    network = model.model
    if not isinstance(network, nn.Module) or not attached(network):
        return train(model, *args, **kwargs)
    # A model from a YAML file is built anew from the file. One with a checkpoint is built from its
    # network's configuration and takes its weights.
    model.ckpt = model.ckpt or {"model": network}
    check = functools.partial(check_gates, expected=len(attached(network)))
    # training on several data sets goes to other processes unless there is a callback
    one = not isinstance(kwargs.get("data"), (list, tuple))
    added = [check] if one else []
    model.callbacks[BEFORE_TRAINING].extend(added)
    try:
        return train(model, *args, **kwargs)
    finally:
        for callback in added:
            model.callbacks[BEFORE_TRAINING].remove(callback)


def take_gates(network: nn.Module, source: nn.Module) -> None:
    """Put the gates of the network `source` on `network`, if that has none and they fit it."""
    count, kind = len(attached(source)), type(network).__name__
    record = gate_record(source)
    if attached(network):
        if gate_record(network) != record:
            warnings.warn(
                f"this {kind} has other gates than the weights that it loads, and those of the "
                f"weights ({count}) are lost where the names or shapes differ; load them before "
                "ab.boost",
                stacklevel=5,
            )
        return
    try:
        _check_shapes(network, source)
        rebuild_gates(network, record)
    except (ValueError, AttributeError) as e:
        warnings.warn(
            f"the weights have {count} gates that do not fit this {kind}, which stays without "
            f"gates ({e}); boost it with ab.boost(model.model, ...)",
            stacklevel=5,
        )
        return
    _log(f"{count} gates of the weights were put on this {kind}")


def _check_shapes(network: nn.Module, source: nn.Module) -> None:
    """Raise unless each gated module of `source` has its counterpart in `network`."""
    for name in attached(source):
        ours, theirs = (_shapes(model.get_submodule(name)) for model in (network, source))
        if ours != theirs:
            raise ValueError(f"{name!r} has other shapes")


def _shapes(module: nn.Module) -> dict[str, Any]:
    state = module.state_dict().items()
    return {key: t.shape for key, t in state if not is_of_gate(key)}


def check_gates(trainer: Any, expected: int = 0) -> None:
    """A callback before the first step: the network has its gates, and batches that they can take.

    The log says how many gates there are, and how many `freeze=` has frozen.

    Raises:
        RuntimeError: if a trainer built the network without the gates.
        ValueError: if the last batch of an epoch has one image, and a gate has a batch norm.
    """
    found = len(attached(trainer.model))
    if found < expected:
        raise RuntimeError(
            f"{type(trainer).__name__} built a network with {found} of the {expected} gates; pass "
            "trainer=ab.integrations.ultralytics.trainer(...) to model.train"
        )
    _tell_of_gates(trainer)
    loader = getattr(trainer, "train_loader", None)
    size = getattr(loader, "batch_size", None)
    if not size or loader is None or getattr(loader, "drop_last", False):
        return
    if (len(loader.sampler) % size or size) == 1 and any(
        isinstance(m, GateNorm) and m.weight.requires_grad for m in trainer.model.modules()
    ):
        raise ValueError(
            f"batch={size} leaves a last batch of 1 of {len(loader.sampler)} images, in which the "
            f"batch norm of a gate sees one value per channel; try batch={size + 1}"
        )


def _tell_of_gates(trainer: Any) -> None:
    """Log the gates of the network that a trainer trains, once: ultralytics does not count them."""
    if vars(trainer).setdefault("_told_of_gates", False):
        return
    trainer._told_of_gates = True
    network = unwrapped(trainer.model)
    gates = attached(getattr(network, "student_model", network)).values()
    if not gates:
        return
    blocks = ", ".join(sorted({name_and_start(gate.recipe)[0] for gate in gates}))
    weights = [list(gate.parameters()) for gate in gates]
    count = sum(p.numel() for parameters in weights for p in parameters)
    _log(f"{len(gates)} gates ({blocks}), {count:,} parameters")
    frozen = sum(bool(ps) and not any(p.requires_grad for p in ps) for ps in weights)
    if frozen:
        _log(
            f"{frozen} of {len(gates)} gates are frozen by freeze={trainer.args.freeze} and stay "
            "as they are; freeze fewer layers, or see docs/trainers/ultralytics.md "
            '("Freezing") for callbacks that let them learn',
            warn=True,
        )


def _log(message: str, *, warn: bool = False) -> None:
    from ultralytics.utils import LOGGER

    (LOGGER.warning if warn else LOGGER.info)(f"accuracy_booster: {message}")
