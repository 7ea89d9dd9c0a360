"""Class prompts laid out as a prompted model reads them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.dual_encoder import DualEncoder
from hf_clipalign.backbones.text import check_end_token
from hf_clipalign.tuners._base import BARE_TEMPLATE, DEFAULT_TEMPLATE
from hf_clipalign.tuners._beginnings import stand_ins
from hf_clipalign.tuners._layers import TextPrompts, active_context

logger = logging.getLogger(__name__)

_SHOWN = 5


def build_prompts(model: Any, tokenizer: Any, class_names: Sequence[str], template: str | None = None) -> Tensor:
    """Token ids of one prompt per class, with the places of the learned context where the active adapter wants them.

    The class name at the end (CoOp, CoCoOp, MaPLe, PromptSRC): the first `n_ctx` tokens of the template are what the
    context replaces; if it has fewer before the class name, or begins with other words than `ctx_init`, the context
    stands in their place. The name in the middle or in front (CoOp): the words before `{}` are what the context
    stands for, and are dropped. Without learned text prompts the template is used as it is. Underscores in class
    names become spaces. A template that differs from the adapter's own is named in a warning.

    Args:
        model (`nn.Module`): a supported CLIP, bare or with an adapter of this package.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`): the model's tokenizer, or a processor with one.
        class_names (`Sequence[str]`): C class names.
        template (`str`, *optional*): a sentence with one `{}`. Default: the adapter's own, which it was trained with;
            `a photo of a {}.` without an adapter.

    Returns:
        `LongTensor [C, T]`: padded to the longest prompt, or to the model's length where attention is bidirectional.

    Raises:
        `ClipAlignError`: no class names; a template without exactly one `{}`; a prompt over the model's length; other
            classes than those of a class-specific context.

    Example:
        ```python
        >>> from hf_clipalign.tuners import build_prompts
        >>> processor.tokenizer.batch_decode(build_prompts(model, processor, ["maine_coon"]), skip_special_tokens=True)
        ['a photo of a maine coon .']
        ```
    """
    encoder, tokenizer = as_dual_encoder(model), getattr(tokenizer, "tokenizer", tokenizer)
    class_names = as_texts(class_names, "class_names")
    names = [name.replace("_", " ") for name in class_names]
    if not names:
        raise ClipAlignError("no class names: give at least one.")
    layer = active_context(encoder)
    own = adapter_template(model)
    template = template or own
    if template.count("{}") != 1:
        raise ClipAlignError(f"the template {template!r} must have exactly one {{}}, where the class name goes.")
    config = None if layer is None else layer.configs.get(str(layer.active_adapter_name))
    writer = _PromptWriter(encoder, tokenizer, template, getattr(config, "ctx_init_ids", None))
    if layer is not None:
        _check_classes(config, names)
        _warn_of_another(writer.stock(layer), own)
    if layer is None:
        rows = [writer.plain(name) for name in names]
    elif (position := layer.class_token_position) == "end":
        rows = [writer.after_context(name, layer.n_ctx) for name in names]
    else:
        n_before = layer.n_ctx // 2 if position == "middle" else 0
        rows = [writer.around_name(name, n_before, layer.n_ctx - n_before) for name in names]
    _check_lengths(encoder, class_names, rows)
    input_ids = _pad(encoder, tokenizer, rows)
    check_end_token(encoder, tokenizer, input_ids)
    return input_ids


class _PromptWriter:
    """Token ids of one prompt, by the rules of a tokenizer."""

    def __init__(self, encoder: DualEncoder, tokenizer: Any, template: str, initial_ids: Sequence[int] | None = None):
        special = tokenizer("")["input_ids"]
        self.start = special[: encoder.text_start_tokens]
        self.end = special[encoder.text_start_tokens :]
        self.tokenizer = tokenizer
        self.template = template
        self.head, self.tail = template.split("{}")
        self.head_ids = self.ids(self.head.rstrip()) if self.head.strip() else []
        self.initial_ids = initial_ids

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def plain(self, name: str) -> list[int]:
        return [*self.start, *self.ids(self.template.replace("{}", name)), *self.end]

    def after_context(self, name: str, n_ctx: int) -> list[int]:
        if self.is_replaced_in_place(n_ctx):
            return self.plain(name)
        return [*self.start, *[self.placeholder] * n_ctx, *self.ids(name + self.tail), *self.end]

    def is_replaced_in_place(self, n_ctx: int) -> bool:
        """Whether the context takes the place of the template's own first words, which it started from if from any."""
        if len(self.head_ids) < n_ctx or self.head.strip() == stand_ins(n_ctx):
            return False
        return self.initial_ids is None or self.head_ids[:n_ctx] == list(self.initial_ids)

    def stock(self, layer: TextPrompts) -> str:
        """The template that gives a stock tokenizer the places which the context replaces."""
        if layer.class_token_position != "end" or self.is_replaced_in_place(layer.n_ctx):
            return self.template
        return f"{stand_ins(layer.n_ctx)} {{}}{self.tail}"

    def around_name(self, name: str, n_before: int, n_after: int) -> list[int]:
        name_ids = self.ids(name)
        with_tail = self.ids(name + self.tail)
        tail = with_tail[len(name_ids) :] if with_tail[: len(name_ids)] == name_ids else self.ids(self.tail)
        before, after = [self.placeholder] * n_before, [self.placeholder] * n_after
        return [*self.start, *before, *name_ids, *after, *tail, *self.end]

    @property
    def placeholder(self) -> int:
        """Start token where there is one: no text ever has it in its middle."""
        return self.start[0] if self.start else self.end[0]


def adapter_template(model: Any, tokenizer: Any = None, template: str | None = None) -> str:
    """The prompt that belongs to the active adapter, as stock transformers takes it (`hypothesis_template`).

    Args:
        model (`nn.Module`): a supported CLIP, bare or with an adapter of this package.
        tokenizer (`PreTrainedTokenizerBase` or `ProcessorMixin`, *optional*): needed with `template`.
        template (`str`, *optional*): another prompt, to bring into that form. Default: the adapter's own.

    Returns:
        `str`: the first `n_ctx` tokens of it are those that the context replaces: the words that it started from, or
        one "X" for each vector.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import CoOpConfig, adapter_template
        >>> adapter_template(get_peft_model(load_mini().student, CoOpConfig(n_ctx=4)))
        'X X X X {}.'
        ```
    """
    encoder = as_dual_encoder(model)
    layer = active_context(encoder)
    if template is not None:
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        config = None if layer is None else layer.configs.get(str(layer.active_adapter_name))
        writer = _PromptWriter(encoder, tokenizer, template, getattr(config, "ctx_init_ids", None))
        return template if layer is None else writer.stock(layer)
    if layer is not None:
        config = layer.configs.get(str(layer.active_adapter_name))
        return getattr(config, "template", None) or BARE_TEMPLATE
    config = _active_config(model)
    return DEFAULT_TEMPLATE if hasattr(config, "n_ctx") else getattr(config, "template", None) or DEFAULT_TEMPLATE


def own_template(model: Any) -> str | None:
    """The prompt that the active adapter was trained with; None without one, or where the adapter keeps none.

    Args:
        model (`nn.Module` or `DualEncoder`): a CLIP, bare, with an adapter of this package, or with another one.

    Returns:
        `str`, *optional*: see `adapter_template`.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import CoOpConfig, own_template
        >>> own_template(get_peft_model(load_mini().student, CoOpConfig(n_ctx=2)))
        'X X {}.'
        >>> own_template(load_mini().student) is None
        True
        ```
    """
    model = model.model if isinstance(model, DualEncoder) else model
    return adapter_template(model) if hasattr(_active_config(model), "template") else None


def chosen_template(model: Any, template: str | None = None, default: str = "a photo of a {}.") -> str:
    """The prompt to use: the given one, else the adapter's own, else a default.

    A given one that is not the adapter's own is named in a warning.

    Args:
        model (`nn.Module` or `DualEncoder`): see `own_template`.
        template (`str`, *optional*): what was asked for.
        default (`str`, *optional*, defaults to `"a photo of a {}."`): for a model without an adapter.

    Returns:
        `str`: the prompt with one `{}`.

    Example:
        ```python
        >>> from hf_clipalign.data import load_mini
        >>> from hf_clipalign.tuners import chosen_template
        >>> chosen_template(load_mini().student, None, "an emoji of {}")
        'an emoji of {}'
        ```
    """
    own = own_template(model)
    if own is not None and template is not None:
        _warn_of_another(template, own)
    return template or own or default


def _active_config(model: Any) -> Any:
    """Configuration of the active adapter, whether PEFT wraps the model or transformers loaded the adapter into it."""
    configs = getattr(model, "peft_config", None) or {}
    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    layer = next(layers, None) if configs else None
    return None if layer is None or layer.disable_adapters else configs.get(layer.active_adapters[0])


def _check_classes(config: Any, names: Sequence[str]) -> None:
    """A context for each class fits those classes and no others."""
    if not getattr(config, "class_specific", False):
        return
    if len(names) != config.n_classes:
        raise ClipAlignError(
            f"{len(names)} prompts for a class-specific context of {config.n_classes} classes: give the classes that "
            "it was trained on, in their order, or train a context that all classes share (class_specific=False)."
        )
    known = config.class_names
    differing = [] if known is None else [name for name, own in zip(names, known, strict=True) if name != own]
    if differing:
        raise ClipAlignError(
            f"the class-specific context was trained on other classes: {', '.join(known[:_SHOWN])}, not "
            f"{', '.join(differing[:_SHOWN])}. Give its own in their order, or train a shared context."
        )


def _warn_of_another(template: str, own: str) -> None:
    if template != own:
        logger.warning("the prompt %r is not the adapter's own, %r: its scores are others", template, own)


def _check_lengths(encoder: DualEncoder, class_names: Sequence[str], rows: list[list[int]]) -> None:
    for name, row in zip(class_names, rows, strict=True):
        if len(row) > encoder.max_text_length:
            raise ClipAlignError(
                f"the prompt of class {name!r} has {len(row)} tokens, but the model reads {encoder.max_text_length}: "
                "shorten the class name or the template."
            )


def _pad(encoder: DualEncoder, tokenizer: Any, rows: list[list[int]]) -> Tensor:
    length = max(map(len, rows)) if encoder.causal_text else encoder.max_text_length
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return torch.tensor([row + [padding] * (length - len(row)) for row in rows])
