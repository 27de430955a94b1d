"""Which nodes of a graph are gates."""

from accuracy_booster.deploy.gate_nodes import Node, find_gates

MAP, VECTOR, POINT = (None, 8, 4, 4), (None, 8), (None, 8, 1, 1)


def chain(*nodes):
    """(name, shape, inputs, heavy) -> nodes."""
    return [Node(name, heavy, tuple(inputs), shape) for name, shape, inputs, heavy in nodes]


def test_a_gate_is_what_leads_from_the_mean_to_the_product():
    nodes = chain(
        ("conv", MAP, [], True),
        ("mean", VECTOR, ["conv"], False),
        ("matrix", VECTOR, ["mean"], True),
        ("sigmoid", VECTOR, ["matrix"], False),
        ("factor", POINT, ["sigmoid"], False),
        ("product", MAP, ["conv", "factor"], False),
        ("relu", MAP, ["product"], False),
        ("pooled", VECTOR, ["relu"], False),
        ("head", (None, 10), ["pooled"], True),
    )
    gates = find_gates(nodes)
    assert gates.inner == {"mean", "matrix", "sigmoid", "factor"}
    assert gates.products == {"product"}


def test_sums_that_a_gate_alone_reads_belong_to_it_and_convolutions_do_not():
    nodes = chain(
        ("input", MAP, [], True),
        ("edge", (None, 8, 1, 4), ["input"], False),
        ("gathered", MAP, ["input"], True),
        ("shared", MAP, ["input"], False),
        ("mean", VECTOR, ["edge", "gathered", "shared"], False),
        ("product", MAP, ["shared", "mean"], False),
    )
    gates = find_gates(nodes)
    assert gates.inner == {"edge", "mean"}
    assert gates.products == {"product"}


def test_a_network_without_gates_has_none():
    nodes = chain(
        ("conv", MAP, [], True),
        ("sum", MAP, ["conv", "conv"], False),
        ("pooled", POINT, ["sum"], False),
        ("flat", VECTOR, ["pooled"], False),
        ("head", (None, 10), ["flat"], True),
        ("unknown", None, ["head"], False),
    )
    gates = find_gates(nodes)
    assert not gates.inner
    assert not gates.products


def test_a_bias_that_is_reshaped_is_no_gate():
    nodes = chain(
        ("conv", MAP, [], True),
        ("bias", POINT, [], False),
        ("twice", POINT, ["bias"], False),
        ("sum", MAP, ["conv", "twice"], False),
    )
    gates = find_gates(nodes)
    assert not gates.inner
    assert not gates.products
