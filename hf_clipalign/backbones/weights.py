"""Which weights a model has, for caches and stores that must not mix models."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_hash(model: nn.Module, before_projector: bool = False) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers that are saved.

    Args:
        model (`nn.Module`): the model.
        before_projector (`bool`, *optional*, defaults to `False`): leave out adapters that lie behind a projector
            (modules with `adapt` around a `base_layer`): features before the projector do not depend on them.

    Example:
        ```python
        >>> from hf_clipalign.backbones import weights_hash
        >>> weights_hash(model) == weights_hash(mini.student), len(weights_hash(model))
        (True, 64)
        ```
    """
    state = _without_adapters(model) if before_projector else model.state_dict()
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _without_adapters(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of the model as it was before adapters were put in the places of its projectors."""
    state = dict(model.state_dict())
    for path, module in model.named_modules():
        if hasattr(module, "adapt") and hasattr(module, "base_layer"):
            base = f"{path}.base_layer."
            own = {name: state.pop(name) for name in list(state) if name.startswith(f"{path}.")}
            state |= {f"{path}.{name.removeprefix(base)}": v for name, v in own.items() if name.startswith(base)}
    return state
