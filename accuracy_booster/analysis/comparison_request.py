"""What a comparison is asked to do: checked, written into compare.json and read from it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accuracy_booster.analysis.comparison_folder import (
    BEGUN,
    read_begun,
    remove_comparison,
    runs_of,
)
from accuracy_booster.blocks import VERSION, as_recorded
from accuracy_booster.files import write_json
from accuracy_booster.training import TrainConfig, resolve
from accuracy_booster.training.identity import new_id
from accuracy_booster.training.presets import preset_from_scratch
from accuracy_booster.training.run_directory import Run
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
        grown: it is asked for more seeds or blocks than when it was begun.
        lengthened: the epochs that its runs had ended with, before each time that they were made
            longer.
    """

    model: str
    blocks: Sequence[str]
    seeds: int
    options: dict[str, Any]
    version: int = VERSION
    holds_out_by_names: bool = True
    begun: dict[str, Any] | None = None
    data_moved: bool = False
    grown: bool = False
    lengthened: tuple[int, ...] = ()

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


def request_in(
    folder: Path,
    options: dict[str, Any],
    *,
    blocks: Sequence[str] | None = None,
    seeds: int | None = None,
) -> Request:
    """What a comparison is asked to do: what it was begun with, and more seeds, blocks or epochs.

    Args:
        options: may name moved data, and a larger number of epochs.
        blocks: all its blocks, and further ones; None for those that it has.
        seeds: how many, at least as many as it has; None for those.

    Raises:
        ValueError: for other options, or for blocks or seeds that leave finished runs out.
    """
    begun = read_begun(folder)
    changes = {n: value for n, value in options.items() if n in ("data", "data_dir", "epochs")}
    if more := [name for name in options if name not in changes]:
        raise ValueError(
            f"resume goes on as it was begun, with more seeds, blocks or epochs at most; leave out "
            f"{', '.join(more)}"
        )
    data = begun["options"].get("data", TrainConfig.data)
    # what a comparison of an older version, whose options name neither, was trained with
    former = {"preset": preset_from_scratch(begun["model"], data), "keep": "last"}
    asked = {**former, **begun["options"]}
    request = Request(
        begun["model"],
        begun["blocks"],
        begun["seeds"],
        {**asked, **changes},
        version=begun.get(BLOCKS, 1),
        holds_out_by_names="hold_out" in begun,
        begun=begun,
        data_moved="data" in changes,
        lengthened=tuple(begun.get("lengthened", ())),
    )
    request = _with_more(request, folder, blocks, seeds)
    return _longer(request, asked, folder) if "epochs" in changes else request


def _with_more(
    request: Request, folder: Path, blocks: Sequence[str] | None, seeds: int | None
) -> Request:
    """The request with further blocks after its own, which keep their runs' names, and seeds."""
    if seeds is not None and seeds < request.seeds:
        raise ValueError(
            f"seeds={seeds}, but the comparison in {folder} has {request.seeds}, and resuming "
            f"drops no run; give {request.seeds} or more, or leave it out"
        )
    own = request.current_blocks()
    if blocks is not None:
        replace(request, blocks=blocks).check()
        if missing := [block for block in own if block not in blocks]:
            raise ValueError(
                f"blocks={list(blocks)} leaves out {', '.join(map(repr, missing))} of the "
                f"comparison in {folder}, and resuming drops no run; name these too, or leave "
                "blocks out"
            )
    added = [block for block in blocks or () if block not in own]
    grown = bool(added) or (seeds or 0) > request.seeds
    if not grown:
        return request
    if request.lengthened:
        raise ValueError(
            f"the runs in {folder} were made longer after they had ended (they had "
            f"epochs={request.lengthened[-1]}), so new runs would not be trained alike; begin a "
            "new comparison"
        )
    if added and own != list(request.blocks):
        raise ValueError(
            f"the comparison in {folder} is of an older version, which wrote its blocks in another "
            "way, so none can be added; begin a new comparison"
        )
    version = VERSION if added else request.version
    more = [*request.blocks, *added]
    return replace(request, blocks=more, seeds=seeds or request.seeds, grown=True, version=version)


def _longer(request: Request, asked: dict[str, Any], folder: Path) -> Request:
    """The request with more epochs for all its runs than was `asked`. They must have ended.

    Runs that have not begun would be trained in one piece, and not as the others.
    """
    assert request.begun is not None
    before = resolve(request.model, **asked)
    epochs = resolve(request.model, **request.options).epochs
    if epochs == before.epochs:
        return request
    if epochs < before.epochs:
        raise ValueError(
            f"epochs={epochs}, but the comparison in {folder} trains for {before.epochs}; give more"
        )
    if request.grown:
        raise ValueError("give more epochs, or more seeds and blocks, and not both at once")
    for name in request.begun.get("runs") or runs_of(request.begun):
        run, _ = Run.open(folder / Path(name).name, ended=False)
        if not run.info.get("diverged") and run.state(before.epochs) != "finished":
            raise ValueError(
                f"the run in {run.path} has not ended; go on with the comparison by --resume "
                f"{folder} before you make it longer"
            )
    return replace(request, lengthened=(*request.lengthened, before.epochs))


def write_request(
    request: Request, filled: TrainConfig, configs: Sequence[TrainConfig], folder: Path
) -> str | None:
    """Write compare.json, for `resume`; returns the comparison's id.

    Places are written as absolute paths, so that the comparison can be resumed from everywhere.
    What another comparison left in the folder is removed first. The file is written before any run
    begins or changes, so at every instant it says what is asked.
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
    content |= {"lengthened": list(request.lengthened)} if request.lengthened else {}
    names = [Path(str(config.output)).name for config in configs]
    if request.begun is None:
        remove_comparison(folder, keep=names)
        content |= {"id": new_id(), "runs": names}
    else:
        content |= {"id": request.begun["id"]} if "id" in request.begun else {}
        content |= {"runs": names} if "runs" in request.begun else {}
    if content != request.begun:
        write_json(folder / BEGUN, content)
    return content.get("id")
