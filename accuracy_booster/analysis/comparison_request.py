"""What a comparison is asked to do: checked, written into compare.json and read from it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy_booster.analysis.comparison_folder import BEGUN, read_begun, remove_comparison
from accuracy_booster.blocks import VERSION, as_recorded
from accuracy_booster.files import write_json
from accuracy_booster.training import TrainConfig
from accuracy_booster.training.identity import new_id
from accuracy_booster.training.presets import preset_from_scratch
from accuracy_booster.training.run_files import BLOCKS


@dataclass(frozen=True)
class Request:
    """What a comparison is asked to do, now or, for a resumed one, when it was begun.

    Attributes:
        blocks: as they were given. The runs' folders are named after them.
        version: of the blocks' names and texts.
        holds_out_by_names: how the validation images are chosen. An older version chose them by
            their rows.
        begun: the content of compare.json; None for a new comparison.
        data_moved: the data are at another place than when the comparison was begun.
    """

    model: str
    blocks: Sequence[str]
    seeds: int
    options: dict[str, Any]
    version: int = VERSION
    holds_out_by_names: bool = True
    begun: dict[str, Any] | None = None
    data_moved: bool = False

    def check(self) -> None:
        """Raise ValueError for blocks or seeds that cannot be compared."""
        blocks = self.blocks
        if isinstance(blocks, str) or not blocks:
            raise ValueError(f"blocks={blocks!r} must be a list of recipes, such as ['none', 'ab']")
        if len(set(blocks)) < len(blocks):
            raise ValueError(f"blocks={list(blocks)} names a block twice")
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds} must be >= 1")

    def current_blocks(self) -> list[str]:
        """The blocks in the names and texts of this version."""
        if self.version == VERSION:
            return list(self.blocks)
        return [as_recorded(block, self.version) for block in self.blocks]


def request_in(folder: Path, options: dict[str, Any]) -> Request:
    """What a comparison was asked to do when it was begun; `options` may name moved data."""
    begun = read_begun(folder)
    moved = {name: value for name, value in options.items() if name in ("data", "data_dir")}
    if more := [name for name in options if name not in moved]:
        raise ValueError(f"resume goes on as it was begun; leave out {', '.join(more)}")
    data = begun["options"].get("data", TrainConfig.data)
    # what a comparison of an older version, whose options name neither, was trained with
    former = {"preset": preset_from_scratch(begun["model"], data), "keep": "last"}
    return Request(
        begun["model"],
        begun["blocks"],
        begun["seeds"],
        {**former, **begun["options"], **moved},
        version=begun.get(BLOCKS, 1),
        holds_out_by_names="hold_out" in begun,
        begun=begun,
        data_moved="data" in moved,
    )


def write_request(
    request: Request, filled: TrainConfig, configs: Sequence[TrainConfig], folder: Path
) -> str | None:
    """Write compare.json, for `resume`; returns the comparison's id.

    Places are written as absolute paths, so that the comparison can be resumed from everywhere.
    What another comparison left in the folder is removed first.
    """
    absolute = {
        name: getattr(filled, name)
        for name in ("data", "data_dir", "weights")
        if request.options.get(name)
    }
    content: dict[str, Any] = {
        "model": request.model,
        "blocks": list(request.blocks),
        "seeds": request.seeds,
        "options": {"preset": filled.preset, "keep": filled.keep, **request.options, **absolute},
        BLOCKS: request.version,
    }
    content |= {"hold_out": "names"} if request.holds_out_by_names else {}
    if request.begun is None:
        names = [Path(str(config.output)).name for config in configs]
        remove_comparison(folder, keep=names)
        content |= {"id": new_id(), "runs": names}
    else:
        content |= {name: request.begun[name] for name in ("id", "runs") if name in request.begun}
    if content != request.begun:
        write_json(folder / BEGUN, content)
    return content.get("id")
