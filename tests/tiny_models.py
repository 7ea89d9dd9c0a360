"""Tiny random models of every family, with tokenizers and image processors: nothing is downloaded.

Every parameter is drawn from a seeded generator at a scale where features of different inputs differ clearly, biases
and layer norms included. `save_tiny("clip", folder)` writes a checkpoint that the Auto classes and pipelines load.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    GemmaTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

Make = TypeVar("Make", bound=Callable[..., Any])
FAMILIES = ("clip", "metaclip_2", "siglip", "siglip2")
WORDS = (
    *("a", "an", "the", "photo", "picture", "painting", "of", "in", "on", "with", "and", "good", "bad", "type"),
    *("texture", "red", "green", "blue", "small", "big", "old", "cat", "dog", "bird", "fish", "horse", "car", "bus"),
    *("boat", "train", "plane", "tree", "flower", "house", "bridge", "apple", "guitar", "frog", "owl", "fox", "lion"),
)
IMAGE_SIZE = 32
TEXT_LENGTH = {"clip": 77, "metaclip_2": 77, "siglip": 64, "siglip2": 64}

_SPECIAL_TOKENS = {
    "metaclip_2": {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "siglip": {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"},
}


def _made_once(make: Make) -> Make:
    """Copies of one model are quicker than making it again; the caller's random numbers are left alone."""

    @functools.cache
    def made(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            return make(*args, **kwargs)

    @functools.wraps(make)
    def copied(*args: Any, **kwargs: Any) -> Any:
        return copy.deepcopy(made(*args, **kwargs))

    return cast(Make, copied)


@_made_once
def tiny_clip(seed: int = 0, **text_overrides: Any) -> CLIPModel:
    """`CLIPModel`: 3 layers a tower, text width 32, image width 48, 17 image tokens, joint size 24."""
    ids = {"bos_token_id": vocab_size("clip") - 2, "eos_token_id": vocab_size("clip") - 1}
    text = _text_config("clip") | ids | {"pad_token_id": ids["eos_token_id"]} | text_overrides
    config = CLIPConfig(text_config=text, vision_config=_vision_config(), projection_dim=24)
    return _randomised(CLIPModel(config), seed)


@_made_once
def tiny_metaclip2(seed: int = 0, **text_overrides: Any) -> MetaClip2Model:
    """`MetaClip2Model` of the same sizes; start token 0, padding 1, end token 2."""
    text = _text_config("metaclip_2") | {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2} | text_overrides
    config = MetaClip2Config(text_config=text, vision_config=_vision_config(), projection_dim=24)
    return _randomised(MetaClip2Model(config), seed)


@_made_once
def tiny_siglip(seed: int = 0, **text_overrides: Any) -> SiglipModel:
    """`SiglipModel`: 3 layers a tower, width 32 on both sides, 16 image tokens, attention-pooling head."""
    text = (
        _text_config("siglip")
        | {"projection_size": 32, "bos_token_id": None, "pad_token_id": 0, "eos_token_id": 0}
        | text_overrides
    )
    vision = _vision_config() | {"hidden_size": 32, "intermediate_size": 64}
    return _randomised(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)), seed)


@_made_once
def tiny_siglip2(seed: int = 0, **text_overrides: Any) -> Siglip2Model:
    """`Siglip2Model` (the one with flexible image shapes) of the same sizes, at most 16 patches."""
    text = (
        _text_config("siglip2")
        | {"projection_size": 32, "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 1}
        | text_overrides
    )
    vision = _vision_config() | {"hidden_size": 32, "intermediate_size": 64, "num_patches": 16}
    del vision["image_size"]
    return _randomised(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)), seed)


def tiny_model(family: str, seed: int = 0) -> Any:
    """The tiny model of a family in `FAMILIES`."""
    makers = {"clip": tiny_clip, "metaclip_2": tiny_metaclip2, "siglip": tiny_siglip, "siglip2": tiny_siglip2}
    return makers[family](seed)


@functools.cache
def tiny_tokenizer(family: str = "clip") -> Any:
    """A byte-pair tokenizer that knows `WORDS` as single tokens and spells out every other word."""
    if family == "clip":
        return CLIPTokenizer(vocab=_clip_vocabulary(), merges=_merges(), model_max_length=77)
    if family == "siglip2":
        return _siglip2_tokenizer()
    special = _SPECIAL_TOKENS[family]
    vocab = {token: index for index, token in enumerate(dict.fromkeys([*special.values(), *_pieces()]))}
    bpe = models.BPE(vocab=vocab, merges=_merges(), end_of_word_suffix="</w>", unk_token=special["unk_token"])
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    _add_special_tokens(tokenizer, special["bos_token"] if family == "metaclip_2" else None, special["eos_token"])
    names = ["input_ids", "attention_mask"] if family == "metaclip_2" else ["input_ids"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=TEXT_LENGTH[family], model_input_names=names, **special
    )


def tiny_image_processor(family: str = "clip") -> Any:
    """The family's image processor at the tiny image size."""
    if family in ("clip", "metaclip_2"):
        size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        return CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    if family == "siglip":
        return SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return Siglip2ImageProcessor(patch_size=8, max_num_patches=16)


def tiny_pixel_values(n: int, family: str = "clip", seed: int = 0) -> dict[str, torch.Tensor]:
    """The image inputs of the family's model for n random images."""
    generator = torch.Generator().manual_seed(seed)
    if family != "siglip2":
        return {"pixel_values": torch.randn(n, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)}
    return {
        "pixel_values": torch.randn(n, 16, 3 * 8 * 8, generator=generator),
        "pixel_attention_mask": torch.ones(n, 16, dtype=torch.int32),
        "spatial_shapes": torch.full((n, 2), 4),
    }


def save_tiny(family: str, folder: str | Path, seed: int = 0) -> Path:
    """Writes model, tokenizer and image processor of a family to `folder`."""
    tiny_model(family, seed).save_pretrained(folder)
    tiny_tokenizer(family).save_pretrained(folder)
    tiny_image_processor(family).save_pretrained(folder)
    return Path(folder)


def vocab_size(family: str = "clip") -> int:
    """Number of tokens of the tiny tokenizer."""
    return len(tiny_tokenizer(family))


def _siglip2_tokenizer() -> Any:
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet(), "▁"})
    merges = list(dict.fromkeys(merge for word in WORDS for merge in _merges_of(["▁", *word])))
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = dict.fromkeys([*special, *letters, *("".join(merge) for merge in merges)])
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer_class = getattr(transformers, "Siglip2Tokenizer", GemmaTokenizer)  # the former is newer than 5.0
    tokenizer = tokenizer_class(
        vocab=vocab, merges=merges, model_max_length=64, padding_side="right", model_input_names=["input_ids"]
    )
    _add_special_tokens(tokenizer.backend_tokenizer, None, "<eos>")
    return tokenizer


def _add_special_tokens(tokenizer: Tokenizer, start: str | None, end: str) -> None:
    template = f"$A {end}" if start is None else f"{start} $A {end}"
    tokens = [(token, tokenizer.token_to_id(token)) for token in (start, end) if token is not None]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=tokens)


def _text_config(family: str) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size(family),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": TEXT_LENGTH[family],
        "projection_dim": 24,
    }


def _vision_config() -> dict[str, Any]:
    return {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "projection_dim": 24,
    }


@torch.no_grad()
def _randomised(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    norms = {id(module.weight) for module in model.modules() if isinstance(module, nn.LayerNorm)}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            parameter.fill_(3.0 if name == "logit_scale" else 0.5)
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if id(parameter) in norms:
            parameter.copy_(1 + 0.1 * noise)
        elif id(parameter) in embeddings or parameter.dim() == 3:
            parameter.copy_(0.5 * noise)
        else:
            parameter.copy_(noise * (0.1 if parameter.dim() == 1 else parameter[0].numel() ** -0.5))
    return model.eval()


@functools.cache
def _merges() -> list[tuple[str, str]]:
    return list(dict.fromkeys(merge for word in WORDS for merge in _merges_of([*word[:-1], f"{word[-1]}</w>"])))


def _merges_of(pieces: list[str]) -> list[tuple[str, str]]:
    """The merges that build a word from its pieces, left to right."""
    return [("".join(pieces[:end]), pieces[end]) for end in range(1, len(pieces))]


def _pieces() -> list[str]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(merge) for merge in _merges())]
    return list(dict.fromkeys(pieces))


def _clip_vocabulary() -> dict[str, int]:
    return {piece: index for index, piece in enumerate([*_pieces(), "<|startoftext|>", "<|endoftext|>"])}


@_made_once
def tiny_chinese_clip(seed: int = 0) -> Any:
    """`ChineseCLIPModel`: CLIP's image tower, a BERT of width 32 that is read at its first token."""
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    text = _bert_config() | {"projection_dim": 24}
    config = ChineseCLIPConfig(text_config=text, vision_config=_vision_config(), projection_dim=24)
    return _randomised(ChineseCLIPModel(config), seed)


@_made_once
def tiny_altclip(seed: int = 0) -> Any:
    """`AltCLIPModel`: CLIP's image tower, an XLM-RoBERTa of width 32 with 20 numbers before its projector."""
    from transformers import AltCLIPConfig, AltCLIPModel

    text = _bert_config() | {"project_dim": 20, "pad_token_id": 1, "max_position_embeddings": 42}
    config = AltCLIPConfig(text_config=text, vision_config=_vision_config(), projection_dim=24)
    return _randomised(AltCLIPModel(config), seed)


@_made_once
def tiny_vision_text(seed: int = 0) -> Any:
    """`VisionTextDualEncoderModel` of a ViT and a BERT."""
    from transformers import BertConfig, ViTConfig

    vision = {name: value for name, value in _vision_config().items() if name != "projection_dim"}
    return _vision_text(ViTConfig(**vision), BertConfig(**_bert_config()), seed)


@_made_once
def tiny_vision_text_clip(seed: int = 0) -> Any:
    """`VisionTextDualEncoderModel` of CLIP's two towers."""
    from transformers import CLIPTextConfig, CLIPVisionConfig

    ids = {"bos_token_id": vocab_size("clip") - 2, "eos_token_id": vocab_size("clip") - 1}
    text = _text_config("clip") | ids | {"pad_token_id": ids["eos_token_id"]}
    return _vision_text(CLIPVisionConfig(**_vision_config()), CLIPTextConfig(**text), seed)


@_made_once
def tiny_clipseg(seed: int = 0) -> Any:
    """`CLIPSegModel`: the towers under the segmentation model."""
    from transformers import CLIPSegConfig, CLIPSegModel

    ids = {"bos_token_id": vocab_size("clip") - 2, "eos_token_id": vocab_size("clip") - 1}
    text = _text_config("clip") | ids | {"pad_token_id": ids["eos_token_id"]}
    config = CLIPSegConfig(text_config=text, vision_config=_vision_config(), projection_dim=24)
    return _randomised(CLIPSegModel(config), seed)


ALL_MAKERS = {
    "clip": tiny_clip,
    "metaclip_2": tiny_metaclip2,
    "siglip": tiny_siglip,
    "siglip2": tiny_siglip2,
    "chinese_clip": tiny_chinese_clip,
    "altclip": tiny_altclip,
    "vision_text": tiny_vision_text,
    "vision_text_clip": tiny_vision_text_clip,
    "clipseg": tiny_clipseg,
}
"""Every family that transformers has, by the name that `tokenizer_of` and the tests use."""


def tokenizer_of(family: str) -> Any:
    """The tokenizer of a family in `ALL_MAKERS`."""
    if family in ("clip", "vision_text_clip", "clipseg"):
        return tiny_tokenizer("clip")
    return tiny_tokenizer(family) if family in FAMILIES else _word_tokenizer(family)


@functools.cache
def _word_tokenizer(family: str) -> Any:
    """A tokenizer of whole words with the start, end and padding tokens of BERT (RoBERTa's order for AltCLIP)."""
    start, end, pad, unknown = ("<s>", "</s>", "<pad>", "<unk>") if family == "altclip" else _BERT_TOKENS
    special = [start, pad, end, unknown] if family == "altclip" else [pad, start, end, unknown]
    vocab = {token: index for index, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocab, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    _add_special_tokens(tokenizer, start, end)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=_BERT_LENGTH,
        cls_token=start,
        sep_token=end,
        pad_token=pad,
        unk_token=unknown,
    )


_BERT_TOKENS = ("[CLS]", "[SEP]", "[PAD]", "[UNK]")
_BERT_LENGTH = 40


def _bert_config() -> dict[str, Any]:
    return {
        "vocab_size": len(WORDS) + 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": _BERT_LENGTH,
        "pad_token_id": 0,
    }


def _vision_text(vision_config: Any, text_config: Any, seed: int) -> Any:
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision_config, text_config, projection_dim=24)
    return _randomised(VisionTextDualEncoderModel(config), seed)


def tiny_processor(family: str) -> Any:
    """The processor of a family in `ALL_MAKERS`: images and texts."""
    import transformers

    names = {
        "clip": "CLIPProcessor",
        "metaclip_2": "CLIPProcessor",
        "siglip": "SiglipProcessor",
        "siglip2": "Siglip2Processor",
        "chinese_clip": "ChineseCLIPProcessor",
        "altclip": "AltCLIPProcessor",
        "clipseg": "CLIPSegProcessor",
    }
    processor_class = getattr(transformers, names.get(family, "VisionTextDualEncoderProcessor"))
    image_processor = tiny_image_processor(family if family in ("siglip", "siglip2") else "clip")
    return processor_class(image_processor=image_processor, tokenizer=tokenizer_of(family))
