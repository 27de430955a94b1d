"""All commands by their names, in the order in which `--help` lists them."""

from __future__ import annotations

from accuracy_booster.cli import (
    bench,
    compare,
    complexity,
    detect,
    eval,
    export,
    inspect,
    merge,
    networks,
    predict,
    prune,
    publish,
    reproduce,
    reproduce_counts,
    runs,
    script,
    train,
)

COMMANDS = {
    **compare.COMMANDS,
    **train.COMMANDS,
    **runs.COMMANDS,
    **eval.COMMANDS,
    **predict.COMMANDS,
    **detect.COMMANDS,
    **networks.COMMANDS,
    **complexity.COMMANDS,
    **bench.COMMANDS,
    **inspect.COMMANDS,
    **merge.COMMANDS,
    **prune.COMMANDS,
    **export.COMMANDS,
    **publish.COMMANDS,
    **reproduce_counts.COMMANDS,
    **reproduce.COMMANDS,
    **script.COMMANDS,
}
