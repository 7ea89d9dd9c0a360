"""Gaussian average of the prompts of all epochs (PromptSRC), kept beside the checkpoints so that a run can resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from hf_clipalign._errors import ClipAlignError

AVERAGE_FILE = "prompt_average.safetensors"


class PromptAverage(TrainerCallback):
    """Adds up the trained parameters at the end of every epoch, each epoch with its weight.

    Args:
        model (`nn.Module`): its trainable parameters are averaged.
        weights (`list[float]`): weight of every epoch, see `gaussian_weights`.
    """

    def __init__(self, model: nn.Module, weights: list[float]):
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.weights = weights
        self.total = 0.0
        self.sums: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts anew, unless a resumed run has loaded what it had."""
        if state.global_step == 0:
            self.total, self.sums = 0.0, {}

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds this epoch's parameters; the Trainer saves the epoch's checkpoint after this."""
        epoch = min(round(state.epoch), len(self.weights))
        self.add(self.weights[max(epoch, 1) - 1])

    @torch.no_grad()
    def add(self, weight: float) -> None:
        """Adds the parameters as they are now."""
        self.total += weight
        for name, parameter in self.parameters.items():
            value = weight * parameter.detach().double().cpu()
            self.sums[name] = value if name not in self.sums else self.sums[name] + value

    @torch.no_grad()
    def apply(self) -> None:
        """Puts the average into the model. A run that stopped early is averaged over the epochs that it had."""
        if self.total <= 0:
            return
        for name, parameter in self.parameters.items():
            parameter.copy_((self.sums[name] / self.total).to(parameter))

    def save(self, folder: str | Path) -> None:
        """Writes the sums to a checkpoint."""
        tensors = {**self.sums, "total_weight": torch.tensor(self.total, dtype=torch.float64)}
        save_file(tensors, Path(folder) / AVERAGE_FILE)

    def load(self, folder: str | Path) -> None:
        """Reads what `save` wrote.

        Raises:
            `ClipAlignError`: the checkpoint has no average.
        """
        file = Path(folder) / AVERAGE_FILE
        if not file.is_file():
            raise ClipAlignError(
                f"{str(folder)!r} holds no {AVERAGE_FILE}: it was trained without averaging. "
                "Resume without gaussian_mean, or start anew."
            )
        tensors = load_file(file)
        self.total = float(tensors.pop("total_weight"))
        self.sums = tensors
