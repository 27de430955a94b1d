"""How the report tells in sentences how the networks of a table were trained or timed."""

from __future__ import annotations

from accuracy_booster.reproduction.comparing import TableResult
from accuracy_booster.reproduction.phrases import count
from accuracy_booster.reproduction.specs import Spec
from accuracy_booster.reproduction.table import GATES, MERGED, Row


def schedule_sentences(result: TableResult) -> list[str]:
    """One sentence for each schedule of the table, and one on rows with settings of their own."""
    if result.has_times:
        options = result.rows[0].spec.options
        return [
            f"Seconds of inference for a batch of {options['batch_size']}: the median of "
            f"{options['rounds']} rounds, in which the compiled networks take turns."
        ]
    models: dict[str, list[str]] = {}
    for model in result.table.models:
        # rows with settings of their own are told in the last sentence
        row = next(r for r in result.rows if r.row.model == model and not r.row.settings)
        models.setdefault(_schedule(row.spec), []).append(model)
    lines = [f"{', '.join(which)}: {text}." for text, which in models.items()]
    if result.table.measures == GATES:
        lines.append(
            "The numbers of a seed are of one trained network, with its gates changed. The zeroed "
            "channels are chosen in every block, for each image by its own weights."
        )
    own = [
        f"{row.row.label} ({'; '.join(_own_settings(row.row))})"
        for row in result.rows
        if row.row.settings and row.row.cell not in MERGED
    ]
    return [*lines, f"Rows with settings of their own: {'; '.join(own)}."] if own else lines


def _own_settings(row: Row) -> list[str]:
    """What distinguishes a row from the others: the network it starts from, and its settings."""
    listed = [f"{name} {value}" for name, value in row.settings.items()]
    if row.after is None:
        return listed
    whose = "without a block" if row.after.block == "none" else f"with {row.after.block}"
    merged = ", its gates made constants" if row.after.merged else ""
    return [f"goes on from the network {whose}{merged}", *listed]


def _schedule(spec: Spec) -> str:
    """The schedule of one run, such as "10 epochs, batches of 128, SGD with ..."."""
    c = spec.config
    falls = "along a cosine to zero"
    if c.schedule == "step":
        falls = f"times {c.gamma:g} after {', '.join(f'{100 * m:.0f}' for m in c.milestones)} %"
    gates = "" if c.gate_lr is None else f" ({c.gate_lr:g} for the gates)"
    start = "" if c.weights is None else f" from the weights {c.weights}"
    warmups = [(c.warmup_epochs, "epoch"), (c.warmup_steps, "step")]
    warmup = "".join(f", {count(number, what)} of warm-up" for number, what in warmups if number)
    return (
        f"{count(c.epochs, 'epoch')}{start}, batches of {c.batch_size}, SGD with "
        f"{'Nesterov ' * c.nesterov}momentum {c.momentum:g}, a learning rate of {c.lr:g}{gates} "
        f"that falls {falls}{warmup}, weight decay {c.weight_decay:g}"
    )
