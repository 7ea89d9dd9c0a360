"""What happens to the adapters beside the gradient: moments carried from task to task, and the reset rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.trainer_callback import TrainerCallback

from hf_clipalign.losses.retune import undo_small_updates


class SmallUpdates(TrainerCallback):
    """RE-tune's reset rule after every epoch."""

    def __init__(self, threshold: float, step: float):
        self.threshold, self.step = threshold, step
        self.epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epoch = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.before = {name: value.detach().clone() for name, value in trained(model)}

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        threshold = self.threshold + self.step * self.epoch
        kept = undo_small_updates(self.before, dict(trained(model)), threshold)
        for name, value in trained(model):
            value.data.copy_(kept[name])
        self.epoch += 1


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that are trained."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def moments_of(optimizer: Any, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state by parameter name, on the CPU."""
    state = getattr(optimizer, "optimizer", optimizer).state
    return {
        f"{kind}/{name}": torch.as_tensor(value).detach().cpu().clone()
        for name, parameter in trained(model)
        for kind, value in state.get(parameter, {}).items()
    }


def restore_moments(optimizer: Any, model: nn.Module, moments: dict[str, Tensor]) -> None:
    """Gives an optimizer what `moments_of` took from another one."""
    for name, parameter in trained(model):
        own = {key.split("/", 1)[0]: value for key, value in moments.items() if key.split("/", 1)[1] == name}
        for kind, value in own.items():
            # the count of steps stays where Adam keeps it, on the CPU unless it is fused
            moved = value.clone() if value.dim() == 0 else value.to(parameter.device, copy=True)
            optimizer.state[parameter][kind] = moved
