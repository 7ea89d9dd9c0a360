"""open_clip's own CLIP architecture as a stock `CLIPModel` of transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from hf_clipalign._errors import ClipAlignError

_ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu"}


def open_clip_to_transformers(model: Any, tokenizer: Any = None) -> CLIPModel:
    """Converts an open_clip model to a `CLIPModel` with the same logits, where the architecture allows.

    OpenAI's and OpenCLIP's ViTs can be converted. Towers of timm (EVA02, PE-Core, SigLIP, BiomedCLIP), ResNets, CoCa
    and BERT texts have no counterpart in transformers' CLIP classes.

    Args:
        model (`open_clip.CLIP` or `open_clip.CustomTextCLIP`): the model. It is not changed.
        tokenizer (open_clip tokenizer, *optional*): its end token is noted in the configuration. Default: the highest
            id of the vocabulary.

    Returns:
        `CLIPModel`: in evaluation mode, on the CPU, in the model's dtype. Its processor is that of any CLIP with the
        same image size, mean and standard deviation; open_clip's texts are padded to the full length.

    Raises:
        `ClipAlignError`: a part has no counterpart; the message names it.

    Example:
        ```python
        >>> import open_clip
        >>> from hf_clipalign.backbones import open_clip_to_transformers
        >>> model = open_clip.create_model("ViT-B-32", pretrained=None)
        >>> type(open_clip_to_transformers(model)).__name__
        'CLIPModel'
        ```
    """
    text = getattr(model, "text", model)
    _check(model, text)
    config = _config(model, text, tokenizer)
    state = {**_image_state(model.visual), **_text_state(text), "logit_scale": model.logit_scale.reshape(())}
    converted = CLIPModel(config).to(model.logit_scale.dtype)
    converted.load_state_dict({name: value.detach().clone().cpu() for name, value in state.items()})
    return converted.eval()


def _check(model: Any, text: Any) -> None:
    """Names the first part of an open_clip model that transformers' CLIP cannot express."""
    visual = model.visual
    if type(visual).__name__ != "VisionTransformer" or not hasattr(visual, "class_embedding"):
        trunk = getattr(visual, "trunk", None)
        tower = type(visual).__name__ if trunk is None else f"{type(trunk).__name__} of timm"
        _refuse(f"its image tower is a {tower}, not a CLIP ViT")
    if not hasattr(text, "token_embedding"):
        _refuse(f"its text tower is a {type(text).__name__}, not CLIP's")
    causal = getattr(text, "attn_mask", None) is not None
    findings = {
        "it has a logit bias": model.logit_bias is not None,
        "its image tower pools by attention": visual.attn_pool is not None,
        "its image tower does not read the class token": visual.pool_type != "tok",
        "its image tower has no norm before the layers": not isinstance(visual.ln_pre, nn.LayerNorm),
        "its images are not square": len({*visual.image_size}) > 1 or len({*visual.patch_size}) > 1,
        "its text attention is not causal": not causal,
        "its text tower has a class token": getattr(text, "cls_emb", None) is not None,
        "its text tower is not read at the end token": _pool_type(text) not in ("argmax", "eos"),
        "its text projector has a bias": getattr(text.text_projection, "bias", None) is not None,
        "a tower has no projector": visual.proj is None or text.text_projection is None,
    }
    for reason, found in findings.items():
        if found:
            _refuse(reason)
    for tower in (visual.transformer, text.transformer):
        _check_block(tower.resblocks[0])


def _check_block(block: Any) -> None:
    if type(block).__name__ != "ResidualAttentionBlock" or not isinstance(block.attn, nn.MultiheadAttention):
        _refuse(f"its layers are {type(block).__name__} with {type(block.attn).__name__}")
    if not isinstance(block.ls_1, nn.Identity):
        _refuse("its layers scale their outputs")
    if type(block.mlp.gelu).__name__ not in _ACTIVATIONS:
        _refuse(f"its activation is {type(block.mlp.gelu).__name__}")


def _refuse(reason: str) -> None:
    raise ClipAlignError(
        f"this open_clip model cannot become a transformers CLIPModel: {reason}. as_dual_encoder takes it as it is."
    )


def _config(model: Any, text: Any, tokenizer: Any) -> CLIPConfig:
    vocabulary, text_width = text.token_embedding.weight.shape
    end = getattr(tokenizer, "eot_token_id", None)
    if end is None:
        end = vocabulary - 1 if _pool_type(text) == "argmax" else _end_id(text)
    shared = model.visual.proj.shape[1]
    vision_config = {
        **_tower_config(model.visual.transformer, model.visual.ln_post),
        "hidden_size": model.visual.proj.shape[0],
        "image_size": model.visual.image_size[0],
        "patch_size": model.visual.patch_size[0],
        "projection_dim": shared,
    }
    text_config = {
        **_tower_config(text.transformer, text.ln_final),
        "hidden_size": text_width,
        "vocab_size": vocabulary,
        "max_position_embeddings": len(text.positional_embedding),
        "bos_token_id": max(end - 1, 0),
        "eos_token_id": end,
        "pad_token_id": 0,
        "projection_dim": shared,
    }
    return CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=shared)


def _tower_config(transformer: Any, norm: nn.LayerNorm) -> dict[str, Any]:
    block = transformer.resblocks[0]
    activation = _ACTIVATIONS[type(block.mlp.gelu).__name__]
    if getattr(block.mlp.gelu, "approximate", "none") == "tanh":
        activation = "gelu_pytorch_tanh"
    return {
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.c_fc.out_features,
        "hidden_act": activation,
        "layer_norm_eps": norm.eps,
    }


def _image_state(visual: Any) -> dict[str, Tensor]:
    prefix = "vision_model."
    return {
        f"{prefix}embeddings.class_embedding": visual.class_embedding,
        f"{prefix}embeddings.patch_embedding.weight": visual.conv1.weight,
        f"{prefix}embeddings.position_embedding.weight": visual.positional_embedding,
        **_copied(visual.ln_pre, f"{prefix}pre_layrnorm"),
        **_layers(visual.transformer, prefix),
        **_copied(visual.ln_post, f"{prefix}post_layernorm"),
        "visual_projection.weight": visual.proj.T,
    }


def _text_state(text: Any) -> dict[str, Tensor]:
    prefix, projector = "text_model.", text.text_projection
    return {
        f"{prefix}embeddings.token_embedding.weight": text.token_embedding.weight,
        f"{prefix}embeddings.position_embedding.weight": text.positional_embedding,
        **_layers(text.transformer, prefix),
        **_copied(text.ln_final, f"{prefix}final_layer_norm"),
        "text_projection.weight": projector.weight if isinstance(projector, nn.Linear) else projector.T,
    }


def _layers(transformer: Any, prefix: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for index, block in enumerate(transformer.resblocks):
        layer = f"{prefix}encoder.layers.{index}."
        for kind in ("weight", "bias"):
            parts = getattr(block.attn, f"in_proj_{kind}").chunk(3)
            state |= {f"{layer}self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
        state |= _copied(block.attn.out_proj, f"{layer}self_attn.out_proj")
        for ours, theirs in (("layer_norm1", block.ln_1), ("layer_norm2", block.ln_2)):
            state |= _copied(theirs, layer + ours)
        state |= _copied(block.mlp.c_fc, f"{layer}mlp.fc1") | _copied(block.mlp.c_proj, f"{layer}mlp.fc2")
    return state


def _copied(module: nn.Module, name: str) -> dict[str, Tensor]:
    return {f"{name}.{kind}": value for kind, value in module.state_dict().items()}


def _pool_type(text: Any) -> str:
    return text.text_pool_type if hasattr(text, "text_pool_type") else text.pool_type


def _end_id(text: Any) -> int:
    return text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id
