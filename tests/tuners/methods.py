"""The methods and families that the tests go over."""

from __future__ import annotations

import functools
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn

from hf_clipalign.tuners import CoCoOpConfig, CoOpConfig, MaPLeConfig, PromptSRCConfig, RETuneConfig, VPTConfig
from tests.tiny_models import FAMILIES, tiny_model, tiny_pixel_values, tiny_tokenizer

NAMES = ["cat", "red fox", "old_house", "owl", "big blue bird"]
CONFIGS: dict[str, Any] = {
    "coop": lambda: CoOpConfig(n_ctx=4),
    "coop_class_specific": lambda: CoOpConfig(n_ctx=3, class_specific=True, n_classes=len(NAMES)),
    "cocoop": lambda: CoCoOpConfig(n_ctx=2, reduction=4),
    "vpt_shallow": lambda: VPTConfig(n_prompts=3, depth=1),
    "vpt_deep": lambda: VPTConfig(n_prompts=3),
    "maple": lambda: MaPLeConfig(n_ctx=2, depth=3),
    "promptsrc": lambda: PromptSRCConfig(n_ctx=4, n_prompts=2, text_depth=2, image_depth=3),
    "retune": lambda: RETuneConfig(),
    "retune_linear": lambda: RETuneConfig(adapter="linear"),
    "retune_shared": lambda: RETuneConfig(sides="shared"),
}
MODULE_TO_SAVE = {name: "post_layernorm" if name.startswith("retune") else "visual_projection" for name in CONFIGS}
MATRIX = [(method, family) for method in CONFIGS for family in FAMILIES]


def prompted(method: str, family: str, seed: int = 0, base: Any = None) -> Any:
    """A tiny model with the method's adapter, its parameters large enough to matter."""
    torch.manual_seed(seed)
    return stirred(get_peft_model(tiny_model(family) if base is None else base, CONFIGS[method]()), seed)


def stirred(model: Any, seed: int) -> Any:
    """The trained parameters drawn anew, large enough to change every feature."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@functools.cache
def prompts(family: str, n_ctx: int = 4) -> Tensor:
    """Class prompts that begin with as many context words."""
    words = " ".join(["a", "photo", "of", "a"][:n_ctx])
    texts = [f"{words} {name.replace('_', ' ')}." for name in NAMES]
    return tiny_tokenizer(family)(texts, padding="max_length", return_tensors="pt")["input_ids"]


def logits(model: nn.Module, family: str) -> Tensor:
    """The stock forward of the model on three images and the five class prompts, `[3, 5]`."""
    inputs = tiny_pixel_values(3, family)
    with torch.no_grad():
        return model(input_ids=prompts(family), **inputs).logits_per_image
