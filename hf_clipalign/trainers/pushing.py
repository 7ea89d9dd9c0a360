"""Pushes what a trainer has trained, from a folder of its own: nothing else of the output folder can slip in."""

from __future__ import annotations

import contextlib
import tempfile
from contextlib import AbstractContextManager
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.replacing import files_below
from hf_clipalign._io.staging import staging_folder
from hf_clipalign.hub.connection import commit, explained
from hf_clipalign.hub.published import published, set_base_model
from hf_clipalign.hub.push import push_folder
from hf_clipalign.trainers.cards import CARD_FILE, card_info

_CONFIG_FILE = "adapter_config.json"
_LOCAL_FILES = ["training_args.json", f"*{_CONFIG_FILE}"]


def push_trained(
    trainer: Any,
    repo_id: str | None,
    base_model: str | None,
    blocking: bool,
    **push_kwargs: Any,
) -> Any:
    """Writes the model, then pushes it with its card.

    Args:
        trainer (`AlignmentTrainer`): what trained it.
        repo_id (`str`, *optional*): `owner/name`. Default: that of the settings.
        base_model (`str`, *optional*): Hub id of an adapter's base model. Default: where it was loaded from.
        blocking (`bool`): return when all has arrived; False gives a future.
        **push_kwargs: as `push_folder`.

    Raises:
        `ClipAlignError`: no repository is named, or as `push_folder`.
    """
    repo_id = repo_id or trainer.hub_model_id or trainer.args.hub_model_id
    if not repo_id:
        raise ClipAlignError("where to? Give repo_id='owner/name', or hub_model_id in the settings.")
    base_model = trainer.public_base(base_model)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(staging_folder(tempfile.gettempdir(), "clipalign-push"))
        trainer._write_model(folder, False)
        (folder / CARD_FILE).unlink(missing_ok=True)  # the card comes from info, with the licence of the base model
        info = replace(card_info(trainer, folder), load_from=repo_id)
        info = info if base_model is None else replace(info, base_model=base_model)
        if base_model is not None:
            set_base_model(folder / _CONFIG_FILE, base_model)
        upload = partial(_upload, folder, stack.pop_all(), repo_id, info=info, **push_kwargs)
    return upload() if blocking else HfApi().run_as_future(upload)


def push_checkpoint(trainer: Any, checkpoint: Path, path_in_repo: str, message: str) -> Any:
    """Uploads a checkpoint in the background, without the settings, which name folders of this machine.

    Its other files are uploaded as `published` gives them; gives the future.
    """
    args = trainer.args
    names = [name for name in files_below(checkpoint) if not any(fnmatch(name, local) for local in _LOCAL_FILES)]

    def upload() -> Any:
        with (
            explained(trainer.hub_model_id),
            staging_folder(tempfile.gettempdir(), "clipalign-push") as staging,
        ):
            files = {f"{path_in_repo}/{name}": published(name, checkpoint / name, staging) for name in names}
            api = HfApi(token=args.hub_token)
            return commit(api, trainer.hub_model_id, files, f"{message}, checkpoint", args.hub_revision)

    return HfApi().run_as_future(upload)


def _upload(folder: Path, staging: AbstractContextManager, repo_id: str, **push_kwargs: Any) -> Any:
    with staging:
        return push_folder(folder, repo_id, **push_kwargs)
