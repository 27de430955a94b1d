"""`ab.push_to_hub`: a run's network as a repository of the Hugging Face Hub, or of HF_ENDPOINT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from accuracy_booster.deploy.publishing import (
    FILES,
    Published,
    checked_directory,
    contents_of,
    write_files,
)
from accuracy_booster.errors import CannotPush, shortened, shown
from accuracy_booster.training.train_result import TrainResult

MESSAGE = "Add the network, its weights and its card"


def push_to_hub(
    run: str | Path | TrainResult,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    directory: str | Path | None = None,
    overwrite: bool = False,
    message: str = MESSAGE,
    model: nn.Module | Callable[..., nn.Module] | str | None = None,
    latency: bool = True,
    device: str | torch.device = "cpu",
) -> Published:
    """Upload a run's network to a repository of the Hub, which is made if it is not there.

    The three files of `ab.save_pretrained` become one commit. Then
    `timm.create_model("hf-hub:OWNER/NAME", pretrained=True)` loads the network.

    Args:
        run: the directory of a finished run, or what `ab.train` returned.
        repo_id: OWNER/NAME, or NAME for a repository of the user's own.
        private: whether a new repository is private; by default it is public, or what the
            organisation has chosen. A repository that is there stays as it is.
        token: by default HF_TOKEN, or that of `hf auth login`.
        directory: where the files are kept too, as by `ab.save_pretrained`; by default nowhere.
        overwrite: replace files of these names in a repository, and in the directory, that hold
            them. The repository's history keeps them.
        message: of the commit.
        model, latency, device: as for `ab.save_pretrained`.

    Raises:
        ValueError: as `ab.save_pretrained`; for a malformed repo_id, no token, a repository that
            holds such files already, or without huggingface_hub.
        CannotPush: if the Hub cannot be reached or refuses.
    """
    hub = Hub.open(repo_id, token)
    place = None if directory is None else checked_directory(directory, overwrite)
    contents, published = contents_of(
        run, model=model, latency=latency, device=device, repo_id=hub.repo_id
    )
    if place is not None:
        published = write_files(place, contents, published)
    url = hub.upload(contents, private=private, overwrite=overwrite, message=message)
    return replace(published, url=url)


@dataclass(frozen=True)
class Hub:
    """A repository of the Hub, as a user with a token sees it.

    Attributes:
        repo_id: its name.
        api: huggingface_hub's, with the token.
    """

    repo_id: str
    api: Any

    @classmethod
    def open(cls, repo_id: str, token: str | None = None) -> Hub:
        """Check what can be checked here, before anything is computed or sent.

        Raises:
            ValueError: without huggingface_hub, for a malformed name, or without a token.
            CannotPush: if the Hub cannot say who the user is, where the name has no owner.
        """
        try:
            from huggingface_hub import HfApi, get_token
            from huggingface_hub.utils import HFValidationError, validate_repo_id
        except ImportError as e:
            raise ValueError(
                "uploading takes huggingface_hub, which is not installed; pip install "
                "huggingface_hub"
            ) from e
        try:
            if not isinstance(repo_id, str) or not repo_id:
                raise HFValidationError("it is no text, or an empty one")
            validate_repo_id(repo_id)
        except HFValidationError as e:
            reason = shortened(" ".join(str(e).split()), 300)
            raise ValueError(
                f"repo_id={shown(repo_id)} must be OWNER/NAME, or NAME for one of your own, of "
                f"letters, digits, '-', '_' and '.' ({reason})"
            ) from None
        with _explained(repo_id):
            token = token or get_token()
        if not token:
            raise ValueError(
                "uploading takes a token with the right to write, and there is none; run "
                "hf auth login, set HF_TOKEN, or give token=... in Python"
            )
        from accuracy_booster.version import __version__

        api = HfApi(token=token, library_name="accuracy-booster", library_version=__version__)
        if "/" not in repo_id:  # the card names the owner
            with _explained(repo_id):
                repo_id = f"{api.whoami()['name']}/{repo_id}"
        return cls(repo_id, api)

    def upload(
        self, contents: dict[str, bytes], *, private: bool | None, overwrite: bool, message: str
    ) -> str:
        """Make the repository if it is not there, and commit the files; returns its address.

        Raises:
            ValueError: if it holds files of these names and they are not to be replaced.
            CannotPush: if the Hub cannot be reached or refuses.
        """
        from huggingface_hub import CommitOperationAdd

        with _explained(self.repo_id):
            made = self.api.create_repo(self.repo_id, private=private, exist_ok=True)
            there = [name for name in self.api.list_repo_files(made.repo_id) if name in FILES]
        if there and not overwrite:
            raise ValueError(
                f"{made} already holds {', '.join(there)}; choose another name, or --overwrite "
                "(overwrite=True) to replace them, the card with its changes too"
            )
        with _explained(self.repo_id):
            self.api.create_commit(
                made.repo_id,
                [CommitOperationAdd(name, content) for name, content in contents.items()],
                commit_message=message,
            )
        return str(made)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into a CannotPush of one line."""
    try:
        yield
    except Exception as e:  # the client's errors have no class in common
        status = getattr(getattr(e, "response", None), "status_code", None)
        remedy = {
            401: "the token is not valid: run hf auth login, or set HF_TOKEN",
            403: "the token has no right to write there: give one that has, or another OWNER",
            404: "there is no such owner or repository, or the token may not see it",
        }.get(status or 0, "is there a network, and is HF_ENDPOINT right if it is set?")
        reason = shortened(" ".join(str(e).split()) or type(e).__name__, 400)
        raise CannotPush(f"cannot upload to {repo_id}: {remedy} ({reason})") from e
