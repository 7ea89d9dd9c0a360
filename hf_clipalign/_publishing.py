"""What the package's models share when they are saved."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_clipalign._io.files import atomic_folder

MODEL_FILES = (
    *("config.json", "generation_config.json", "model.safetensors", "model-?????-of-?????.safetensors"),
    "model.safetensors.index.json",
)
"""Files of a model by pattern: one saved over another leaves none of the old ones."""
SPECTRUM_FILE = "spectrum.png"

_HUB_KWARGS = ("repo_id", "private", "revision", "commit_message", "token")


def save_whole(
    model: Any, save: Callable[..., Any], save_directory: str | Path, processor: Any = None, **kwargs: Any
) -> None:
    """Calls transformers' `save_pretrained` so that a crash leaves the old model or the new one; then may push.

    Files in the folder that are not the model's own stay, as with transformers.
    """
    hub = kwargs.pop("push_to_hub", False)
    hub_kwargs = {name: kwargs.pop(name) for name in _HUB_KWARGS if name in kwargs}
    with atomic_folder(save_directory, keep=not_of_a_model) as staging:
        save(staging, **kwargs)
        if processor is not None:
            processor.save_pretrained(staging)
    if hub:
        model.push_to_hub(hub_kwargs.pop("repo_id", None) or Path(save_directory).name, **hub_kwargs)


def not_of_a_model(name: str) -> bool:
    """Whether a file of a folder stays when another model is saved there."""
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in (*MODEL_FILES, SPECTRUM_FILE))
