"""The two wrappers that every method is made of: prompts in the text tower, prompts in the image tower."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import is_finite
from hf_clipalign.backbones.dual_encoder import DualEncoder
from hf_clipalign.tuners._beginnings import known_beginnings

PROMPT_STD = 0.02
PIXEL_MASK_NAMES = ("pixel_attention_mask", "attention_mask")  # the latter before transformers named it otherwise


def only_active(layer: BaseTunerLayer, known: Container[str]) -> str | None:
    """The one active adapter among the `known` ones, or None.

    Raises:
        `ClipAlignError`: several of them are active.
    """
    active = [] if layer.disable_adapters else [name for name in layer.active_adapters if name in known]
    if len(active) > 1:
        raise ClipAlignError(f"several adapters cannot be applied together: {active}. Choose one with set_adapter.")
    return active[0] if active else None


class CheckedWeights(nn.Module):
    """A tuner layer that refuses broken adapter weights when they are loaded."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        own = tuple(f"{prefix}{name}." for name in self.adapter_layer_names)  # type: ignore[union-attr]
        broken = [key for key, value in state_dict.items() if key.startswith(own) and not is_finite(value)]
        if broken:
            raise ClipAlignError(
                f"the adapter has NaN or infinite weights in {broken[0]}: it is broken, get it again or train it anew."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_loaded_adapters(tuner: Any, incompatible_keys: Any) -> None:
    """Load hook of a tuner: an adapter that a file holds in part, or not at all, is no adapter.

    Raises:
        `ClipAlignError`: names the weights that are missing.
    """
    keys_of: dict[str, list[str]] = {}
    for key in tuner.state_dict():
        names = key.split(".")
        place = next((index for index, name in enumerate(names) if name.startswith(tuner.prefix)), None)
        if place is not None:
            keys_of.setdefault(names[place + 1], []).append(key)
    missing = incompatible_keys.missing_keys
    lacking = {name: [key for key in keys if _ends_one(missing, key)] for name, keys in keys_of.items()}
    in_part = {name: keys for name, keys in lacking.items() if 0 < len(keys) < len(keys_of[name])}
    nothing = len(missing) >= len(tuner.state_dict())
    for name, keys in (lacking if nothing else in_part).items():
        raise ClipAlignError(
            f"the file of adapter {name!r} lacks {len(keys)} of {len(keys_of[name])} weights, the first is {keys[0]}: "
            "get the adapter again, or the one for this model."
        )


def _ends_one(missing: list[str], key: str) -> bool:
    return any(name == key or name.endswith(f".{key}") for name in missing)


class PromptLayer(CheckedWeights, BaseTunerLayer):
    """Wraps a module of the tower and holds one set of prompts per adapter name.

    The first name in `adapter_layer_names` is the `ParameterDict` of the prompts.

    Args:
        base_layer (`nn.Module`): the module to wrap.
    """

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer: Any = base_layer
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        setattr(self, self.adapter_layer_names[0], nn.ParameterDict())

    @property
    def prompts(self) -> nn.ParameterDict:
        """The prompts of every adapter by its name."""
        return getattr(self, self.adapter_layer_names[0])

    @property
    def active_adapter_name(self) -> str | None:
        """The adapter that this layer applies, or None.

        Raises:
            `ClipAlignError`: several adapters are active.
        """
        return only_active(self, self._holder)

    @property
    def _holder(self) -> Any:
        return self.prompts

    def add_prompts(self, adapter_name: str, values: Tensor, inference_mode: bool) -> None:
        """Adds an adapter whose prompts start at `values`, on the device of the wrapped module."""
        device = next(self.get_base_layer().parameters()).device
        self.prompts[adapter_name] = nn.Parameter(values.detach().clone().to(device))
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError("learned prompts are no weights of the model: there is nothing to merge them into")

    def unmerge(self) -> None:
        raise NotImplementedError("learned prompts are never merged")

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False


class TextPrompts(PromptLayer):
    """Replaces the n positions after the start token: behind the token table, or before an encoder layer.

    Args:
        base_layer (`nn.Module`): the token table (`nn.Embedding`) or an encoder layer.
        start (`int`): first position to replace; 1 with a start token, else 0.
    """

    is_conditional: ClassVar[bool] = False
    """Whether every image has its own prompts (CoCoOp)."""

    def __init__(self, base_layer: nn.Module, start: int):
        super().__init__(base_layer)
        self.start = start
        self.configs: dict[str, Any] = {}
        self.end_token: int | None = None
        self.tokenizer_names: dict[str, str] = {}
        self._beginnings: dict[tuple[str, str], list[list[int]] | None] = {}
        self._is_planned = False

    def know_prompts(self, adapter_name: str, config: Any, end_token: int | None, tokenizer_name: str) -> None:
        """Keeps what the stock forward needs to refuse prompts that an adapter does not fit."""
        self.configs[adapter_name], self.end_token = config, end_token
        self.tokenizer_names[adapter_name] = tokenizer_name

    @property
    def needs_own_rows(self) -> bool:
        """Whether prompts of different classes share nothing that could be packed."""
        return False

    @property
    def shared_prefix(self) -> int:
        """Number of leading tokens that class prompts must have in common."""
        return self.start + self.n_ctx

    @property
    def n_ctx(self) -> int:
        """Number of positions that the active adapter replaces."""
        return self.active_prompts.shape[-2]

    @property
    def class_token_position(self) -> str:
        """Where the class name stands in the prompts of the active adapter."""
        return "end"

    @property
    def active_prompts(self) -> Tensor:
        """The prompts of the active adapter, `[n, d_t]`."""
        return self.prompts[str(self.active_adapter_name)]

    def put(self, hidden_states: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """`hidden_states [R, T, d_t]` with the active adapter's prompts in place."""
        if self.active_adapter_name is None:
            return hidden_states
        return replace_positions(hidden_states, self.active_prompts, self.start)

    @contextlib.contextmanager
    def for_classes(self, indices: Tensor) -> Iterator[None]:
        """Inside, the rows are a plan's, which was checked, of the classes `indices [R]`."""
        self._is_planned = True
        try:
            yield
        finally:
            self._is_planned = False

    @contextlib.contextmanager
    def for_images(self, image_features: Tensor, rows_per_image: int) -> Iterator[None]:
        """Inside, each image of `image_features [N, d]` owns `rows_per_image` rows of a plan. Only CoCoOp uses it."""
        yield

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.get_base_layer(), nn.Embedding):
            self._check_rows(hidden_states)
            return self.put(self.base_layer(hidden_states, *args, **kwargs), hidden_states)
        return self.base_layer(self.put(hidden_states), *args, **kwargs)

    def _check_rows(self, input_ids: Tensor) -> None:
        """Refuses token ids in which the context would take the place of a class name or of the end token."""
        name = self.active_adapter_name
        if self._is_planned or name not in self.configs or self.class_token_position != "end":
            return
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        replaced = input_ids[:, self.start : self.start + self.n_ctx]
        if input_ids.shape[1] <= self.start + self.n_ctx or self._holds_end(replaced):
            lost = "the end of a prompt"
        elif bool((replaced != replaced[:1]).any()):
            lost = "class names: the prompts do not begin with the same words"
        elif self._holds_name(input_ids):
            lost = "the class name: the prompt does not begin with the template's words"
        else:
            return
        raise ClipAlignError(
            f"the learned context replaces the first {self.n_ctx} tokens, and with them {lost}. Use the template "
            f"{self.configs[name].template!r}, or hf_clipalign.tuners.build_prompts."
        )

    def _holds_name(self, input_ids: Tensor) -> bool:
        """Whether the context takes the class name of a prompt that stands alone, with no other to compare it with.

        It does where nothing but the end follows, or where the first words are neither those that the context started
        from, nor the template's, nor stand-ins. Without a tokenizer beside the model the ids of the latter are not
        known: then any token that fills all places counts as a stand-in, and a template with other words is trusted.
        """
        if bool((input_ids != input_ids[:1]).any()):
            return False
        first, following = input_ids[0, self.start :].split([self.n_ctx, input_ids.shape[1] - self.start - self.n_ctx])
        if self._holds_end(following[:1]):
            return True
        config = self.configs[str(self.active_adapter_name)]
        initial = getattr(config, "ctx_init_ids", None)
        if initial is not None and first.tolist() == list(initial):
            return False
        known = self._known_beginnings(config.template)
        if known is not None:
            return first.tolist() not in known
        is_trusted = initial is None and config.template != config.automatic_template()
        return not is_trusted and bool((first != first[0]).any())

    def _known_beginnings(self, template: str) -> list[list[int]] | None:
        """`known_beginnings` of the active adapter, looked up once."""
        key = str(self.active_adapter_name), template
        if key not in self._beginnings:
            self._beginnings[key] = known_beginnings(self.tokenizer_names[key[0]], template, self.n_ctx)
        return self._beginnings[key]

    def _holds_end(self, input_ids: Tensor) -> bool:
        return self.end_token is not None and bool((input_ids == self.end_token).any())


class ImagePrompts(PromptLayer):
    """Appends prompts to the image tokens, or replaces those that an earlier layer appended.

    Args:
        base_layer (`nn.Module`): the image embeddings (their output is lengthened, before any norm), or an encoder
            layer (the last n tokens of its input are replaced).
        appends (`bool`): which of the two.
    """

    def __init__(self, base_layer: nn.Module, appends: bool):
        super().__init__(base_layer)
        self.appends = appends

    def current_prompts(self, adapter_name: str) -> Tensor:
        """The prompts of an adapter, `[n, d_v]`."""
        return self.prompts[adapter_name]

    def active_prompts(self) -> Tensor | None:
        """The prompts of the active adapter, `[n, d_v]`, or None."""
        name = self.active_adapter_name
        return None if name is None else self.current_prompts(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        prompts = self.active_prompts()
        if prompts is None:
            return self.base_layer(*args, **kwargs)
        if self.appends:
            return append(self.base_layer(*args, **kwargs), prompts)
        hidden_states, *rest = args
        return self.base_layer(append(hidden_states[:, : -len(prompts)], prompts), *rest, **kwargs)


def active_context(encoder: DualEncoder) -> TextPrompts | None:
    """The token table's wrapper where an adapter with text prompts is active, else None."""
    if encoder.module_paths is None:
        return None
    table = encoder.model.get_submodule(encoder.module_paths.token_embedding)
    return table if isinstance(table, TextPrompts) and table.active_adapter_name is not None else None


def replace_positions(hidden_states: Tensor, prompts: Tensor, start: int) -> Tensor:
    """`hidden_states [R, T, d]` with positions start..start+n-1 from `prompts [n, d]` or `[R, n, d]`."""
    prompts = prompts.to(hidden_states.dtype).expand(len(hidden_states), -1, -1)
    return torch.cat([hidden_states[:, :start], prompts, hidden_states[:, start + prompts.shape[1] :]], dim=1)


def append(hidden_states: Tensor, prompts: Tensor) -> Tensor:
    """`hidden_states [N, P, d]` followed by `prompts [n, d]`."""
    prompts = prompts.to(hidden_states.dtype).expand(len(hidden_states), -1, -1)
    return torch.cat([hidden_states, prompts], dim=1)


def widen_pixel_mask(tower: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Forward pre-hook of image towers that mask padding patches: the appended prompts are no padding."""
    embeddings = getattr(tower, "embeddings", None)
    prompts = embeddings.active_prompts() if isinstance(embeddings, ImagePrompts) else None
    names = [name for name in PIXEL_MASK_NAMES if kwargs.get(name) is not None]
    if prompts is None or not names:
        return None
    mask = kwargs[names[0]]
    return args, kwargs | {names[0]: torch.cat([mask, mask.new_ones(len(mask), len(prompts))], dim=1)}
