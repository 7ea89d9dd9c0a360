"""What the package's models share when they are saved and pushed.

Models lie below the room that publishes: it is imported on use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_clipalign._files import atomic_folder

_HUB_KWARGS = ("repo_id", "private", "revision", "commit_message", "token")


def push_aligned(model: Any, repo_id: str, **kwargs: Any) -> Any:
    """`hf_clipalign.hub.push_isoclip`, imported on use."""
    from hf_clipalign.hub import push_isoclip

    return push_isoclip(model, repo_id, **kwargs)


def push_model(model: Any, repo_id: str, **kwargs: Any) -> Any:
    """`hf_clipalign.hub.push_model`, imported on use."""
    from hf_clipalign.hub import push_model

    return push_model(model, repo_id, **kwargs)


def save_whole(model: Any, save: Callable[..., Any], save_directory: str | Path, **kwargs: Any) -> None:
    """Calls transformers' `save_pretrained` so that a crash leaves no half-written file; then pushes if asked to."""
    push = kwargs.pop("push_to_hub", False)
    hub_kwargs = {name: kwargs.pop(name) for name in _HUB_KWARGS if name in kwargs}
    with atomic_folder(save_directory) as staging:
        save(staging, **kwargs)
    if push:
        model.push_to_hub(hub_kwargs.pop("repo_id", None) or Path(save_directory).name, **hub_kwargs)
