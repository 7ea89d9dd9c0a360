"""What can be set when findings are learned one after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_clipalign._checks.quoting import quoted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.labels.findings import POLICIES
from hf_clipalign.losses.retune import SCORES
from hf_clipalign.trainers.arguments import AlignmentTrainingArguments


@dataclass
class RETuneTrainingArguments(AlignmentTrainingArguments):
    """Settings of `RETuneTrainer`: those of `AlignmentTrainingArguments`, and the ones below.

    The defaults are the published settings: Adam with learning rate 1e-4, 10 epochs per task, 6,144 embeddings per
    batch, seed 27, no schedule, and the optimizer's moments carried from task to task.

    Args:
        learning_rate (`float`, *optional*, defaults to `1e-4`): rate of Adam.
        num_train_epochs (`float`, *optional*, defaults to `10`): passes over the data of each task.
        per_device_train_batch_size (`int`, *optional*, defaults to `6144`): embeddings per process.
        seed (`int`, *optional*, defaults to `27`): of the order of the data, with the number of the task.
        uncertain (`str`): what becomes of labels −1: `ignore` (default), `zeros`, `ones`, or a JSON object that says
            it by finding.
        missing (`str`): what becomes of empty labels, likewise. Default `ignore`.
        score (`str`): `positive` (default, as published) or `difference`, see `retune_scores`.
        carry_optimizer (`bool`, *optional*, defaults to `True`): start a task with the optimizer's moments from the
            one before.
        relearn (`bool`): learn tasks again that the output folder says are done. Default False: an error.
        reset_threshold (`float`, *optional*): undo small updates after every epoch (`undo_small_updates`); the
            authors' code has 0.01 for it, switched off in the released settings. Default None: off.
        reset_step (`float`, *optional*, defaults to `0.001`): added to the threshold after every epoch of a task.

    Example:
        ```python
        >>> from hf_clipalign.trainers import RETuneTrainingArguments
        >>> RETuneTrainingArguments("runs/chest", uncertain="zeros").num_train_epochs
        10
        ```
    """

    # data
    uncertain: str = field(
        default="ignore",
        metadata={"help": 'Labels -1: ignore, zeros, ones, or JSON by finding: {"Edema": "ones"}.'},
    )
    missing: str = field(default="ignore", metadata={"help": "Empty labels: ignore, zeros, ones, or JSON by finding."})
    score: str = field(default="positive", metadata={"help": "Score for curves: positive or difference."})

    # training
    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of Adam."})
    num_train_epochs: float = field(default=10, metadata={"help": "Passes over the data of each task."})
    per_device_train_batch_size: int = field(default=6144, metadata={"help": "Embeddings per process and step."})
    per_device_eval_batch_size: int = field(default=6144, metadata={"help": "Embeddings per block in evaluation."})
    seed: int = field(default=27, metadata={"help": "Seed of the order of the data."})
    weight_decay: float = field(default=0.0, metadata={"help": "Decoupled weight decay; published: none."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning-rate schedule within a task."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradient clipping; 0 is none, as published."})
    dataloader_drop_last: bool = field(default=False, metadata={"help": "Leave out an incomplete last batch."})
    save_strategy: str = field(default="no", metadata={"help": "Must stay no: every finished task is saved."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log: epoch, steps or no."})

    # tasks
    carry_optimizer: bool = field(
        default=True, metadata={"help": "Start a task with the optimizer's moments of the one before."}
    )
    relearn: bool = field(default=False, metadata={"help": "Learn again what the output folder says is done."})
    reset_threshold: float | None = field(
        default=None, metadata={"help": "Undo updates below this share of a tensor's largest, after every epoch."}
    )
    reset_step: float = field(default=0.001, metadata={"help": "Added to that threshold after every epoch."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.uncertain_policy, self.missing_policy = (_policy(n, getattr(self, n)) for n in ("uncertain", "missing"))
        if self.score not in SCORES:
            raise ClipAlignError(f"score={self.score!r}: choose one of {', '.join(SCORES)}.")
        if self.save_strategy != "no":
            raise ClipAlignError("save_strategy must be 'no': every finished task is saved, and a task is short.")
        if self.gradient_accumulation_steps != 1:
            raise ClipAlignError(
                "gradient_accumulation_steps must be 1: the loss is the mean over the known labels of a batch. Raise "
                "per_device_train_batch_size, embeddings are small."
            )
        if self.push_to_hub:
            raise ClipAlignError(
                "push_to_hub would upload what lies in the output folder: train, then call trainer.push_to_hub()."
            )
        if self.reset_threshold is not None and not 0 <= self.reset_threshold <= 1:
            raise ClipAlignError(f"reset_threshold is {self.reset_threshold}: give a share between 0 and 1.")

    def check_policies(self, findings: Sequence[str]) -> None:
        """Refuses policies for findings that are not there.

        Args:
            findings (`Sequence[str]`): all that have prompts.

        Raises:
            `ClipAlignError`: `uncertain` or `missing` names another one.
        """
        for name, policy in (("uncertain", self.uncertain_policy), ("missing", self.missing_policy)):
            unknown = [] if isinstance(policy, str) else [finding for finding in policy if finding not in findings]
            if unknown:
                raise ClipAlignError(f"{name}: no finding {quoted(unknown)}; there are {quoted(findings)}.")

    def policies(self, findings: Sequence[str]) -> tuple[str | dict[str, str], str | dict[str, str]]:
        """What becomes of uncertain and of missing labels of some findings, for `FindingLabels.targets`."""
        uncertain, missing = (
            policy if isinstance(policy, str) else {name: policy[name] for name in findings if name in policy}
            for policy in (self.uncertain_policy, self.missing_policy)
        )
        return uncertain, missing


def _policy(name: str, value: Any) -> str | dict[str, str]:
    """A policy for all findings, or by finding from JSON."""
    policy: Any = value
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            policy = json.loads(value)
        except ValueError as error:
            raise ClipAlignError(f"{name}={value!r} is no JSON object ({error}).") from error
    choices = policy.values() if isinstance(policy, Mapping) else [policy]
    for choice in choices:
        if choice not in POLICIES:
            raise ClipAlignError(f"{name}: no policy {choice!r}; choose one of {', '.join(POLICIES)}.")
    return dict(policy) if isinstance(policy, Mapping) else policy
