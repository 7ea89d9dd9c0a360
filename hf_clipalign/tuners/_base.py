"""What the prompt-learning methods have in common: configuration, places in the model, and the PEFT plumbing."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.dual_encoder import DualEncoder, Modality
from hf_clipalign.tuners._beginnings import stand_ins
from hf_clipalign.tuners._layers import (
    PIXEL_MASK_NAMES,
    PROMPT_STD,
    PromptLayer,
    TextPrompts,
    check_loaded_adapters,
    widen_pixel_mask,
)

DEFAULT_TEMPLATE = "a photo of a {}."
BARE_TEMPLATE = "{}."


@dataclass
class PromptConfig(PeftConfig):
    """Base of the configurations of the prompt-learning methods.

    Args:
        target_modules (`str`, *optional*): the modules that are wrapped, a regular expression. Set at creation.
        modules_to_save (`list[str]`, *optional*): further modules to train and save, `["visual_projection"]` for
            example. Default None.
        template (`str`, *optional*): the prompt with one `{}` that belongs to the adapter; `build_prompts` and the
            loaders use it. Set at creation from `ctx_init`, and by the trainers to what they trained with.
    """

    target_modules: str | None = field(default=None, metadata={"help": "Modules that are wrapped; set at creation."})
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train and save with the prompts."}
    )
    template: str | None = field(
        default=None, metadata={"help": "Prompt with one {} that belongs to the adapter; by default from ctx_init."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template is not None and self.template.count("{}") != 1:
            raise ClipAlignError(f"template {self.template!r} must have exactly one {{}}, where the class name goes.")

    def automatic_template(self) -> str:
        """The prompt of an adapter that was given none; without learned text prompts "a photo of a {}."."""
        return DEFAULT_TEMPLATE

    def _require_positive(self, **numbers: int | None) -> None:
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ClipAlignError(f"{name} must be at least 1, got {value}.")


@dataclass
class ContextConfig(PromptConfig):
    """Base of the configurations of the methods that learn context words.

    Args:
        n_ctx (`int`): number of learned context vectors.
        ctx_init (`str`, *optional*): words whose embeddings the context starts from; the first `n_ctx` tokens count.
            Default None: drawn from N(0, 0.02).
        ctx_init_ids (`list[int]`, *optional*): the same as token ids. Found at creation from `ctx_init`, so that
            loading an adapter needs no tokenizer.
        tokenizer_name_or_path (`str`, *optional*): folder or Hub id of the tokenizer for `ctx_init`. Default: the
            model's own.
    """

    n_ctx: int = field(default=4, metadata={"help": "Number of learned context vectors."})
    ctx_init: str | None = field(
        default=None, metadata={"help": "Words that the context starts from; None draws it from N(0, 0.02)."}
    )
    ctx_init_ids: list[int] | None = field(
        default=None, metadata={"help": "Token ids that the context starts from; found at creation from `ctx_init`."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer for `ctx_init`; None takes the one beside the model."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive(n_ctx=self.n_ctx)

    def automatic_template(self) -> str:
        """The words of `ctx_init`, or one stand-in for each vector of a random context, and the class name."""
        return f"{self.ctx_init or stand_ins(self.n_ctx)} {BARE_TEMPLATE}"


@dataclass(frozen=True)
class Site:
    """A place for prompts.

    Args:
        tower (`"image"` or `"text"`): which tower.
        index (`int`): 0 for the tower's embeddings, i for the input of its encoder layer i.
    """

    tower: Modality
    index: int


class PromptTuner(BaseTuner):
    """PEFT model of a prompt-learning method. A method says where its prompts go and how they start."""

    tuner_layer_cls = PromptLayer
    target_module_mapping: dict[str, Any] = {}  # noqa: RUF012 (as declared by PEFT)
    method_name: ClassVar[str]
    hooks: ClassVar[tuple[Callable[..., Any], ...]] = (widen_pixel_mask,)
    """Hooks on the model and its towers, which `unload` takes away."""

    def depths(self, config: Any, encoder: DualEncoder) -> dict[Modality, int]:
        """Number of layers with prompts in each tower, the embeddings being the first."""
        raise NotImplementedError

    def wrap(self, module: nn.Module, site: Site, encoder: DualEncoder) -> PromptLayer:
        """The method's wrapper for a place."""
        raise NotImplementedError

    def fill(self, layer: Any, adapter_name: str, site: Site, config: Any, encoder: DualEncoder) -> None:
        """Adds an adapter's parameters to a wrapper."""
        raise NotImplementedError

    def check(self, config: Any, encoder: DualEncoder) -> None:
        """Completes the configuration and refuses what the family cannot do."""

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Adds an adapter, with a copy of its configuration: what is completed for this model fits no other."""
        self.peft_config[adapter_name] = copy.deepcopy(self.peft_config[adapter_name])
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        unloaded: Any = super()._unload_and_optionally_merge(*args, **kwargs)
        for module in unloaded.modules():
            remove_hooks(module, self.hooks)
        return unloaded

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        encoder = as_dual_encoder(model)
        if encoder.module_paths is None:
            raise ClipAlignError(
                f"{self.method_name} cannot be learned for {_full_name(model)}: where its towers keep their layers is "
                "not known. It works on transformers' CLIP, MetaCLIP 2, SigLIP and SigLIP 2; ViTs of open_clip can be "
                "converted with open_clip_to_transformers, ResNets cannot."
            )
        check_when_loaded(self)
        self.check(peft_config, encoder)
        peft_config.template = peft_config.template or peft_config.automatic_template()
        peft_config.target_modules = "|".join(re.escape(path) for path in self._sites(peft_config, encoder))

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        encoder = as_dual_encoder(self.model)
        site = self._sites(peft_config, encoder)[current_key]
        layer = target if isinstance(target, PromptLayer) else self.wrap(target, site, encoder)
        self.fill(layer, adapter_name, site, peft_config, encoder)
        if isinstance(layer, TextPrompts) and site.index == 0:
            layer.know_prompts(adapter_name, peft_config, _end_token(encoder), _tokenizer_name(peft_config, encoder))
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)
        if site == Site("image", 0):
            _hook_pixel_mask(parent)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version copies child.weight when unloading, which encoder layers lack
        setattr(parent, child_name, new_module)

    def _sites(self, config: Any, encoder: DualEncoder) -> dict[str, Site]:
        paths = encoder.module_paths
        assert paths is not None
        embeddings = {"text": paths.token_embedding, "image": paths.image_embeddings}
        layers = {"text": paths.text_layers, "image": paths.image_layers}
        sites = {}
        for tower, depth in self.depths(config, encoder).items():
            for index in range(depth):
                path = embeddings[tower] if index == 0 else f"{layers[tower]}.{index}"
                sites[path] = Site(tower, index)
        return sites


def check_when_loaded(tuner: BaseTuner) -> None:
    """Makes a tuner look at what is loaded into it; see `check_loaded_adapters`."""
    if check_loaded_adapters not in tuner._load_state_dict_post_hooks.values():
        tuner.register_load_state_dict_post_hook(check_loaded_adapters)


def remove_hooks(module: nn.Module, hooks: tuple[Callable[..., Any], ...]) -> None:
    """Takes some hooks of its forward off a module."""
    for registry, with_kwargs in (
        (module._forward_hooks, module._forward_hooks_with_kwargs),
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
    ):
        for key in [key for key, hook in registry.items() if hook in hooks]:
            del registry[key]
            with_kwargs.pop(key, None)


def _full_name(model: nn.Module) -> str:
    """The class with the package that it is from: transformers' and open_clip's CLIP are not the same."""
    return f"{type(model).__name__} of {type(model).__module__.partition('.')[0]}"


def _end_token(encoder: DualEncoder) -> int | None:
    """The end token of causal texts; with bidirectional attention, padding marks no end."""
    if not encoder.causal_text:
        return None
    return encoder.true_end_token or getattr(encoder.config.text_config, "eos_token_id", None)


def _tokenizer_name(config: Any, encoder: DualEncoder) -> str:
    """Where the tokenizer of the prompts is looked for; empty where no place is known."""
    return config.tokenizer_name_or_path or getattr(encoder.model, "name_or_path", "") or ""


def n_layers(encoder: DualEncoder, tower: Modality) -> int:
    """Number of encoder layers of a tower."""
    assert encoder.module_paths is not None
    paths = {"text": encoder.module_paths.text_layers, "image": encoder.module_paths.image_layers}
    return len(encoder.model.get_submodule(paths[tower]))


def checked_depth(name: str, depth: int | None, available: int, default: int) -> int:
    """A depth that the towers have: `default` at most if it is not given.

    Raises:
        `ClipAlignError`: the depth is above the number of layers.
    """
    if depth is None:
        return min(default, available)
    if depth > available:
        raise ClipAlignError(f"{name}={depth}, but the tower has {available} layers: choose {available} or fewer.")
    return depth


def random_prompts(n: int, width: int, encoder: DualEncoder) -> Tensor:
    """`[n, width]` from N(0, 0.02)."""
    return torch.empty(n, width, dtype=encoder.dtype).normal_(std=PROMPT_STD)


def _hook_pixel_mask(tower: nn.Module) -> None:
    masks_patches = any(name in inspect.signature(tower.forward).parameters for name in PIXEL_MASK_NAMES)
    if masks_patches and widen_pixel_mask not in tower._forward_pre_hooks.values():
        tower.register_forward_pre_hook(widen_pixel_mask, with_kwargs=True)
