"""A head with RE-tune's adapters behind it."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from hf_clipalign.tuners._layers import CheckedWeights, only_active


class RETuneLayer(CheckedWeights, BaseTunerLayer):
    """Wraps a head and holds one MLP or linear map per adapter name.

    Args:
        base_layer (`nn.Module`): the module whose output is the feature in the shared space, `[N, d]`.
    """

    adapter_layer_names = ("clip_retune_in", "clip_retune_out")
    other_param_names = ("clip_retune_shared",)

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer: Any = base_layer
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self.clip_retune_in = nn.ModuleDict()
        self.clip_retune_out = nn.ModuleDict()
        self.clip_retune_shared: dict[str, bool] = {}
        self.partner: list[RETuneLayer] = []  # in a list: the image head's wrapper is no part of this module

    @property
    def active_adapter_name(self) -> str | None:
        """The adapter that this layer applies, or None.

        Raises:
            `ClipAlignError`: several adapters are active.
        """
        return only_active(self, {*self.clip_retune_out, *self.clip_retune_shared})

    def add_adapter(self, adapter_name: str, dim: int, hidden: bool, identity: bool, inference_mode: bool) -> None:
        """Adds an adapter's weights, `dim` → 2 `dim` → `dim` if `hidden`, else `dim` → `dim`."""
        parameter = next(self.base_layer.parameters(), None)
        device = None if parameter is None else parameter.device
        width = 2 * dim if hidden else dim
        if hidden:
            self.clip_retune_in[adapter_name] = nn.Linear(dim, width, device=device)
        self.clip_retune_out[adapter_name] = nn.Linear(width, dim, device=device)
        if identity:
            self._start_as_identity(adapter_name, dim)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def share_adapter(self, adapter_name: str, inference_mode: bool) -> None:
        """Makes this layer use the weights of `partner` under that name."""
        self.clip_retune_shared[adapter_name] = True
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def adapt(self, features: Tensor) -> Tensor:
        """The active adapter on features of the shared space, `[N, d]`; `features` themselves without one."""
        name = self.active_adapter_name
        if name is None:
            return features
        return (self.partner[0] if name in self.clip_retune_shared else self).apply_adapter(name, features)

    def apply_adapter(self, adapter_name: str, features: Tensor) -> Tensor:
        """One adapter's map, in the type of its weights; the result has the type of `features`."""
        last: Any = self.clip_retune_out[adapter_name]
        hidden = features.to(last.weight.dtype)
        if adapter_name in self.clip_retune_in:
            hidden = self.clip_retune_in[adapter_name](hidden).relu()
        return last(hidden).to(features.dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.adapt(self.base_layer(*args, **kwargs))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError(
            "RE-tune's adapters are no weights of the model: an MLP is not linear, and the projectors of most models "
            "have no place for the linear map's bias"
        )

    def unmerge(self) -> None:
        raise NotImplementedError("RE-tune's adapters are never merged")

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    @torch.no_grad()
    def _start_as_identity(self, adapter_name: str, dim: int) -> None:
        last: Any = self.clip_retune_out[adapter_name]
        eye = torch.eye(dim, device=last.weight.device)
        signs = [eye]
        if adapter_name in self.clip_retune_in:
            first: Any = self.clip_retune_in[adapter_name]
            signs = [eye, -eye]
            first.weight.copy_(torch.cat(signs))
            first.bias.zero_()
        last.weight.copy_(torch.cat(signs, dim=1))
        last.bias.zero_()
