"""timm's weights from the local cache of the Hugging Face hub, where the hub cannot be reached.

`libraries` asks it before timm loads weights. Without it, timm would retry for a minute, even if
the weights are in the cache. The hub's own switch for this, HF_HUB_OFFLINE, would hold for the
whole process, so timm gets the cached file as an argument instead.
"""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from typing import Any

DEFAULT_FILE = "pytorch_model.bin"  # of timm's weights on the hub
SAFE = {  # what timm takes in place of a file, if it is there
    DEFAULT_FILE: "model.safetensors",
    "open_clip_pytorch_model.bin": "open_clip_model.safetensors",
}


def cached_if_unreachable(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options for `timm.create_model(name, pretrained=True)`.

    If the weights are to come from the hub and it cannot be reached, the file in the cache is added
    to them.

    Raises:
        ValueError: if the weights are not in the cache either.
    """
    from huggingface_hub import constants
    from timm.models import get_pretrained_cfg

    overlay = options.get("pretrained_cfg_overlay") or {}
    config = get_pretrained_cfg(name)
    chosen = "pretrained_cfg" in options or {"file", "state_dict", "url"} & overlay.keys()
    if chosen or config is None or not config.hf_hub_id or config.file or config.state_dict:
        return options  # the weights are not on the hub
    if constants.HF_HUB_OFFLINE or is_reachable(constants.ENDPOINT):
        return options
    repository = overlay.get("hf_hub_id") or config.hf_hub_id
    file = overlay.get("hf_hub_filename") or config.hf_hub_filename
    path = _cached(repository, file or DEFAULT_FILE, options.get("cache_dir"))
    if path is None:
        raise ValueError(
            f"cannot make timm/{name} or get its weights (is there a network?): "
            f"{constants.ENDPOINT} cannot be reached, and {repository} is not in the cache "
            f"{options.get('cache_dir') or constants.HF_HUB_CACHE}"
        )
    return {**options, "pretrained_cfg_overlay": {**overlay, "file": path}}


def _cached(repository: str, file: str, folder: Any) -> str | None:
    """The path of a network's weights in the cache, or None."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    identity, _, revision = repository.partition("@")
    other = file.removesuffix(".bin") + ".safetensors" if file.endswith(".bin") else file
    for name in dict.fromkeys((SAFE.get(file, other), file)):
        try:
            return hf_hub_download(
                identity, name, revision=revision or None, cache_dir=folder, local_files_only=True
            )
        except LocalEntryNotFoundError:
            continue
    return None


def is_reachable(address: str) -> bool:
    """Whether a server accepts connections; True behind a proxy, which alone can tell."""
    if urllib.request.getproxies():
        return True
    url = urllib.parse.urlsplit(address)
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=5).close()
    except OSError:
        return False
    return True
