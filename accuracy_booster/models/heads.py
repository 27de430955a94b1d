"""The layers of a network that give its logits: its head, and auxiliary heads.

Training uses them to load weights for other classes, detection to remove the head.
"""

# K classes

from __future__ import annotations

from torch import nn

Head = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def outputs_of(head: Head) -> int:
    """K, the number of logits that a head gives."""
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def _layers(model: nn.Module) -> dict[str, Head]:
    """The linear layers and convolutions by name, without those of gates."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, Head)}
    return {n: m for n, m in found.items() if ".recalibrate." not in f".{n}."}


def _named(model: nn.Module, layers: dict[str, Head]) -> list[str]:
    """The names of the layers that the network itself calls its classifiers, as timm's do."""
    if not callable(ask := getattr(model, "get_classifier", None)):
        return []
    found = ask()
    names = []
    for own in found if isinstance(found, (tuple, list)) else (found,):
        inside = {id(m) for m in own.modules()} if isinstance(own, nn.Module) else set()
        names += [name for name, layer in layers.items() if id(layer) in inside][-1:]
    return names


def classifier(model: nn.Module) -> tuple[str, Head]:
    """The name of the layer that gives the logits, and the layer: linear, or a convolution.

    timm's networks say which it is. In others it is the last linear layer that belongs to no
    auxiliary head, or the last convolution if there is no linear layer (SqueezeNet).

    Raises:
        ValueError: if the network has neither.
    """
    layers = _layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no head: no linear layer or convolution gives its logits"
        )
    if named := _named(model, layers):
        return named[0], layers[named[0]]
    main = {n: layer for n, layer in layers.items() if not _is_auxiliary(n)} or layers
    linear = [name for name, layer in main.items() if isinstance(layer, nn.Linear)]
    name = (linear or list(main))[-1]
    return name, layers[name]


def _is_auxiliary(name: str) -> bool:
    """Whether the name of the layer, or of a module around it, says that it is auxiliary."""
    return "aux" in name.lower()


def heads(model: nn.Module) -> dict[str, Head]:
    """All layers that give logits, by name: the head and auxiliary heads (GoogLeNet, Inception).

    An auxiliary head has "aux" in its name, has the type of the head, gives as many logits, and is
    the last layer of the module around it.
    """
    name, head = classifier(model)
    layers = _layers(model)
    found = {name, *_named(model, layers)}
    modules = dict(model.named_modules())
    for other, layer in layers.items():
        if not _is_auxiliary(other) or type(layer) is not type(head):
            continue
        last = [m for m in modules[other.rpartition(".")[0]].children() if isinstance(m, Head)][-1:]
        if outputs_of(layer) == outputs_of(head) and last == [layer]:
            found.add(other)
    return {other: layer for other, layer in layers.items() if other in found}


def replace_heads(model: nn.Module, num_classes: int) -> None:
    """Give each head fresh weights for another number of classes, in place."""
    for name, head in heads(model).items():
        if outputs_of(head) == num_classes:
            continue
        bias = head.bias is not None
        new: nn.Module
        if isinstance(head, nn.Linear):
            new = nn.Linear(head.in_features, num_classes, bias=bias)
        else:
            sizes = head.kernel_size, head.stride, head.padding, head.dilation
            new = type(head)(head.in_channels, num_classes, *sizes, bias=bias)  # type: ignore[arg-type]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
