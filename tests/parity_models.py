"""The tiny CLIPs behind the golden vectors, made again from their seeds instead of stored.

The reference numbers were computed with random weights that were drawn parameter by parameter, in the order of the
original CLIP's modules, from one seeded generator. Drawing them again gives the same checkpoints to the last few bits;
`tests/test_parity_models.py` checks that against stored features.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

_VOCABULARY, _CONTEXT, _TEXT_WIDTH, _TEXT_LAYERS = 49408, 77, 64, 3
_HEAD_WIDTH = 64


@dataclass(frozen=True)
class _Shape:
    seed: int
    patch: int
    width: int
    layers: int
    joint: int
    logit_scale: float


_SHAPES = {
    "A": _Shape(seed=1101, patch=8, width=128, layers=3, joint=48, logit_scale=3.0),
    "A_teacher": _Shape(seed=1102, patch=4, width=64, layers=4, joint=64, logit_scale=4.1),
}


@functools.cache
def _weights(name: str) -> dict[str, Tensor]:
    shape = _SHAPES[name]
    draw = _Draw(shape.seed)
    n_patches = (32 // shape.patch) ** 2
    weights = {
        "text_model.embeddings.position_embedding.weight": draw(0.03, _CONTEXT, _TEXT_WIDTH),
        "text_projection.weight": draw(_TEXT_WIDTH**-0.5, _TEXT_WIDTH, shape.joint).T,
        "vision_model.embeddings.class_embedding": draw(shape.width**-0.5, shape.width),
        "vision_model.embeddings.position_embedding.weight": draw(shape.width**-0.5, n_patches + 1, shape.width),
        "visual_projection.weight": draw(shape.width**-0.5, shape.width, shape.joint).T,
        "vision_model.embeddings.patch_embedding.weight": draw(
            1.5 * (3 * shape.patch**2) ** -0.5, shape.width, 3, shape.patch, shape.patch
        ),
    }
    weights |= draw.norm("vision_model.pre_layrnorm", shape.width)
    for layer in range(shape.layers):
        weights |= draw.block(f"vision_model.encoder.layers.{layer}", shape.width)
    weights |= draw.norm("vision_model.post_layernorm", shape.width)
    for layer in range(_TEXT_LAYERS):
        weights |= draw.block(f"text_model.encoder.layers.{layer}", _TEXT_WIDTH)
    weights["text_model.embeddings.token_embedding.weight"] = draw(0.06, _VOCABULARY, _TEXT_WIDTH)
    weights |= draw.norm("text_model.final_layer_norm", _TEXT_WIDTH)
    weights["logit_scale"] = torch.tensor(shape.logit_scale)
    return weights


def parity_clip(name: str = "A") -> CLIPModel:
    """A fresh `CLIPModel` with the weights of checkpoint `"A"` or `"A_teacher"`, float32, in evaluation mode."""
    shape = _SHAPES[name]
    common = {"hidden_act": "quick_gelu", "projection_dim": shape.joint}
    config = CLIPConfig(
        text_config=common
        | {
            "vocab_size": _VOCABULARY,
            "hidden_size": _TEXT_WIDTH,
            "intermediate_size": 4 * _TEXT_WIDTH,
            "num_hidden_layers": _TEXT_LAYERS,
            "num_attention_heads": _TEXT_WIDTH // _HEAD_WIDTH,
            "max_position_embeddings": _CONTEXT,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "pad_token_id": 49407,
        },
        vision_config=common
        | {
            "image_size": 32,
            "patch_size": shape.patch,
            "hidden_size": shape.width,
            "intermediate_size": 4 * shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.width // _HEAD_WIDTH,
        },
        projection_dim=shape.joint,
    )
    model = CLIPModel(config)
    missing, unexpected = model.load_state_dict(_weights(name), strict=False)
    assert not unexpected
    assert all(key.endswith("position_ids") for key in missing)
    return model.eval()


class _Draw:
    """Normal draws from one generator, in order."""

    def __init__(self, seed: int):
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, scale: float, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator) * scale

    def norm(self, prefix: str, width: int) -> dict[str, Tensor]:
        return {f"{prefix}.weight": 1 + self(0.1, width), f"{prefix}.bias": self(0.05, width)}

    def linear(self, prefix: str, scale: float, bias_scale: float, out: int, width: int) -> dict[str, Tensor]:
        return {f"{prefix}.weight": self(scale, out, width), f"{prefix}.bias": self(bias_scale, out)}

    def block(self, prefix: str, width: int) -> dict[str, Tensor]:
        stacked = self.linear("", 1.3 * width**-0.5, 0.1, 3 * width, width)
        queries_keys_values = {
            f"{prefix}.self_attn.{name}_proj{kind}": part
            for kind, tensor in stacked.items()
            for name, part in zip("qkv", tensor.chunk(3), strict=True)
        }
        return (
            queries_keys_values
            | self.linear(f"{prefix}.self_attn.out_proj", width**-0.5, 0.03, width, width)
            | self.norm(f"{prefix}.layer_norm1", width)
            | self.linear(f"{prefix}.mlp.fc1", width**-0.5, 0.1, 4 * width, width)
            | self.linear(f"{prefix}.mlp.fc2", (4 * width) ** -0.5, 0.03, width, 4 * width)
            | self.norm(f"{prefix}.layer_norm2", width)
        )
