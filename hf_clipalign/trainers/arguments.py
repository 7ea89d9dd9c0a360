"""What can be set in every trainer, and what it sets differently from transformers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from hf_clipalign._errors import ClipAlignError


@dataclass
class AlignmentTrainingArguments(TrainingArguments):
    """Settings that all trainers of this package share: those of `transformers.TrainingArguments`, set differently.

    Args:
        remove_unused_columns (`bool`, *optional*, defaults to `False`): must stay so: images are columns.
        dataloader_pin_memory (`bool`, *optional*): pin batches in memory. Defaults to whether there is a GPU.
        dataloader_drop_last (`bool`, *optional*, defaults to `True`): no incomplete last batch in training.
        save_strategy (`str`, *optional*, defaults to `"epoch"`): when to save a checkpoint.
        save_total_limit (`int`, *optional*, defaults to 2): checkpoints to keep; None keeps all.
        logging_nan_inf_filter (`bool`, *optional*, defaults to `False`): hide NaN losses in logs.
        disable_tqdm (`bool`, *optional*): no progress bars. Defaults to True where they would go into a file.

    Raises:
        `ClipAlignError`: `remove_unused_columns=True`.

    Example:
        ```python
        >>> from hf_clipalign.trainers import AlignmentTrainingArguments
        >>> AlignmentTrainingArguments("runs/first").remove_unused_columns
        False
        ```
    """

    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False: images are columns."})
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin batches in memory; by default with a GPU."}
    )
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Drop an incomplete last training batch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: epoch, steps or no."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep; None keeps all."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide NaN losses in logs; training stops at the first one anyway."}
    )

    def __post_init__(self) -> None:
        if self.disable_tqdm is None and not sys.stderr.isatty():
            self.disable_tqdm = True
        super().__post_init__()
        if self.remove_unused_columns:
            raise ClipAlignError("remove_unused_columns must be False: the trainer needs the columns with the images")
