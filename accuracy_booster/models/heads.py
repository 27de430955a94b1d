"""The layers of a network that give its logits: its head, and auxiliary heads."""

# K classes

from __future__ import annotations

from torch import nn

Head = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def outputs_of(head: Head) -> int:
    """K, the number of logits that a head gives."""
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def classifier(model: nn.Module) -> tuple[str, Head]:
    """The layer that gives the logits, linear or a convolution, and its name.

    timm's networks say which it is. Elsewhere it is the last linear layer, or in a network
    without linear layers (SqueezeNet) the last convolution.

    Raises:
        ValueError: if there is none.
    """
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, Head)]
    layers = [(n, m) for n, m in layers if ".recalibrate." not in f".{n}."]
    if callable(ask := getattr(model, "get_classifier", None)):
        own = ask()
        inside = {id(m) for m in own.modules()} if isinstance(own, nn.Module) else set()
        if named := [(n, m) for n, m in layers if id(m) in inside]:
            return named[-1]
    linear = [(n, m) for n, m in layers if isinstance(m, nn.Linear)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no head: no linear layer or convolution gives its logits"
        )
    return (linear or layers)[-1]


def heads(model: nn.Module) -> dict[str, Head]:
    """All layers that give logits, by name: the head and auxiliary ones (GoogLeNet, Inception).

    An auxiliary head is another layer of the head's kind with as many outputs that stands last in
    the module around it.
    """
    name, head = classifier(model)
    found = {}
    modules = dict(model.named_modules())
    for other, layer in modules.items():
        if type(layer) is not type(head) or outputs_of(layer) != outputs_of(head):
            continue
        parent = modules[other.rpartition(".")[0]]
        last = [m for m in parent.children() if isinstance(m, Head)][-1]
        if other == name or (isinstance(layer, nn.Linear) and last is layer):
            found[other] = layer
    return found


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
