"""Texts of recipes."""

from __future__ import annotations

# texts that the table lacks: every part, every argument, integers, floats, signs, booleans, words
TEXTS = [
    "gap | dense(groups=4, bias=true, init=zeros) | sigmoid",
    "gap | dense(bias=false, init=kaiming_normal) | bn(eps=0.001, momentum=0.5) | sigmoid",
    "gap | dense | bn(init=zeros) | sigmoid(scale=2)",
    "gap | bn(eps=1e-07) | sigmoid(scale=0.25)",
    "gmp | bottleneck(8, bias=false, init=ones) | sigmoid",
    "gap + gmp + gap | bottleneck(4) | bn | sigmoid",
    "gap | conv1d(5) | sigmoid",
    "gap | conv1d(adaptive, init=ones) | bn | sigmoid",
    "gather(2) | sigmoid",
    "gather(4) | conv(1) | sigmoid",
    "gather(8, learned=true, init=kaiming_normal) | bottleneck(2) | sigmoid",
    "conv(global, bias=true) | sigmoid",
    "dwconv(5, bias=false) | gmp | sigmoid",
    "channel_pool | conv2d(3, bias=true, init=zeros) | sigmoid",
    "gap | sigmoid ; gmp | sigmoid ; channel_pool | conv2d(5) | sigmoid",
    "conv(3) + dwconv(3) | bn | sigmoid",
]


def chain(*parts, sum_of=1):
    """A recipe's dict from (name, arguments) pairs, written without the parser."""
    entries = [{"part": name, **arguments} for name, arguments in parts]
    return {"gates": [{"descriptors": entries[:sum_of], "weigh": entries[sum_of:]}]}
