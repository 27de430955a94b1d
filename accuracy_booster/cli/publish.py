"""The command that gives a run's network to others: publish."""

from __future__ import annotations

from typing import Any

from accuracy_booster.cli.command import Command, Result
from accuracy_booster.cli.output import say
from accuracy_booster.cli.parser import Parser
from accuracy_booster.cli.shared_options import own_network_argument


def _arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="the directory of a finished run of train")
    parser.add_argument(
        "directory",
        type=str | None,
        nargs="?",
        help="a new directory for config.json, model.safetensors and the model card README.md",
    )
    parser.add_argument(
        "--push",
        type=str | None,
        help="upload the files to this repository of the Hugging Face Hub, OWNER/NAME, which is "
        "made if it is not there; the token is HF_TOKEN, or that of hf auth login",
    )
    parser.add_argument(
        "--private",
        type=bool,
        default=False,
        help="make a new repository private; else it is public, or what the organisation has "
        "chosen",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace such files in the directory, and in the repository",
    )
    own_network_argument(parser)
    parser.add_argument(
        "--device", type=str, default="cpu", help="where the card's latency is measured"
    )
    parser.add_argument(
        "--latency", type=bool, default=True, help="measure the latency for the card"
    )


def _publish(given: dict[str, Any]) -> Result:
    from accuracy_booster.deploy import push_to_hub, save_pretrained

    run, directory = given.pop("run"), given.pop("directory", None)
    repo_id = given.pop("push", None)
    if repo_id is None and directory is None:
        raise ValueError("name a DIRECTORY to write to, or a repository with --push OWNER/NAME")
    if repo_id is None:
        if "private" in given:
            raise ValueError("--private is of a repository; name one with --push OWNER/NAME")
        published = save_pretrained(run, directory, **given)
    else:
        published = push_to_hub(run, repo_id, directory=directory, **given)

    def show() -> None:
        low, high = published.interval
        say(
            f"top-1 {published.top1:.2f} % on {published.images:,} test images (95 % interval "
            f"{low:.2f} to {high:.2f} %), {published.parameters:,} parameters"
        )
        for name, size in published.sizes.items():
            say(f"{name}, {size:,} bytes")
        say(_HOW[published.loader])
        if published.directory is not None:
            say(published.directory)
        if published.url is not None:
            say(published.url)

    return published.to_dict(), show


_HOW = {
    "timm": "timm alone loads it; README.md has the lines, and the place for a licence",
    "registered": "timm loads it after ab.integrations.timm.register(); README.md has the lines, "
    "and the place for a licence",
    "own code": "your own code builds it, and safetensors loads the weights; README.md has the "
    "lines, and the place for a licence",
}

COMMANDS = {
    "publish": Command(
        "A run's network for timm and the Hugging Face Hub, with a model card.",
        "accuracy-booster publish runs/resnet18-ab-photos-s0 resnet18-ab --push me/resnet18-ab",
        _arguments,
        _publish,
    ),
}
