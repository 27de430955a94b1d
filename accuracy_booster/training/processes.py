"""What the processes of one training must have in common, checked before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accuracy_booster.training.identity import differences
from accuracy_booster.training.run_config import RunConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from accuracy_booster.training.task import TrainingData


def agree(accelerator: Accelerator, config: RunConfig, data: TrainingData) -> None:
    """Raise ValueError, in all processes, unless all read the same data with the same settings.

    Processes with other data take other numbers of steps, and then wait for each other for ever.
    """
    if accelerator.num_processes == 1:
        return
    from accelerate.utils import broadcast_object_list, gather_object

    first: list[Any] = [config.to_yaml(), data.marks]
    broadcast_object_list(first)
    text, marks = first
    told = [
        f"its {split} split of {data.name} has {changed}"
        for split in data.marks
        if (changed := data.difference(split, marks.get(split, {})))
    ]
    own = type(config).from_yaml(text)
    free = () if not told else ("mean", "std")  # which are the data's
    if other := differences(config, own, "output", "workers", *free):
        told.append(f"it has {other}")
    wrong = [
        f"process {rank} differs from process 0: {', '.join(found)}"
        for rank, found in enumerate(gather_object([told]))
        if found
    ]
    if wrong:
        raise ValueError(
            f"{'; '.join(wrong)}; give all processes the same data and the same settings"
        )
