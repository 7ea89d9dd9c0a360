"""Which checkpoints of a run are complete, and from which of them a run can resume."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content

_WEIGHTS = "*model*.safetensors"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has the name of a checkpoint (`checkpoint-N`)."""
    prefix, _, step = folder.name.rpartition("-")
    return prefix == PREFIX_CHECKPOINT_DIR and step.isdigit()


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end, which is `trainer_state.json`."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return True


def whole_checkpoints(output_dir: str | Path | None) -> list[Path]:
    """The complete checkpoints of a run, the newest first."""
    folders = [path for path in Path(output_dir or ".").glob(f"{PREFIX_CHECKPOINT_DIR}-*") if is_checkpoint(path)]
    newest_first = sorted(folders, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return [path for path in newest_first if is_whole(path)]


def checkpoint_to_resume(choice: Any, output_dir: str | Path | None) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means: a folder, True for the newest complete one, or none.

    Raises:
        `ClipAlignError`: there is no complete checkpoint.
    """
    if choice is None or choice is False:
        return None
    if str(choice).lower() != "true":  # the command line gives True as text
        if not is_whole(Path(choice)):
            raise ClipAlignError(
                f"{os.fspath(choice)!r} is an incomplete checkpoint: no readable {TRAINER_STATE_NAME}, which is "
                "written last. Name another, or take the newest complete one with resume_from_checkpoint=True."
            )
        return os.fspath(choice)
    whole = whole_checkpoints(output_dir)
    if not whole:
        raise ClipAlignError(
            f"there is no complete checkpoint to resume from in {os.fspath(output_dir or '.')!r}: train without "
            "resume_from_checkpoint, or give the output_dir of the run that was stopped"
        )
    return os.fspath(whole[0])


def last_good_checkpoint(output_dir: str | Path | None) -> str | None:
    """The newest complete checkpoint of a run whose weights can be read and are finite numbers only."""
    for path in whole_checkpoints(output_dir):
        files = list(path.rglob(_WEIGHTS))
        if files and all(map(_is_good, files)):
            return os.fspath(path)
    return None


def _is_good(file: Path) -> bool:
    try:
        with explained_content(file):
            return all(torch.isfinite(value).all() for value in load_file(file).values())
    except ClipAlignError:
        return False
