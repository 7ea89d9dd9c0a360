"""RE-tune's adapters on embeddings that are there already: no tower is run, or even loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hf_clipalign._checks.quoting import short_reason
from hf_clipalign._checks.tensors import check_tensors
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content
from hf_clipalign.backbones import as_dual_encoder
from hf_clipalign.backbones.dual_encoder import Modality

_STAND_IN_HEADS: dict[Modality, str] = {"image": "visual_projection", "text": "text_projection"}


class EmbeddingSpace(nn.Module):
    """The shared space of a backbone without its towers: two identities in the places of the heads.

    For adapters on stored embeddings alone, and for backbones whose heads are no modules that PEFT could wrap
    (open_clip): `get_peft_model(EmbeddingSpace(512), RETuneConfig())`.

    Args:
        embed_dim (`int`): size d of the shared space.
        name_or_path (`str`, *optional*, defaults to `""`): what the adapter's configuration names as its base model.
        heads (`dict`, *optional*): dotted names of the heads by modality. Default: CLIP's.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig
        >>> get_peft_model(EmbeddingSpace(512), RETuneConfig()).peft_config["default"].embed_dim
        512
        ```
    """

    def __init__(self, embed_dim: int, name_or_path: str = "", heads: dict[Modality, str] | None = None):
        super().__init__()
        self.embed_dim = embed_dim
        self.name_or_path = name_or_path
        self.feature_heads = heads or _STAND_IN_HEADS
        self.config = {"model_type": "embedding_space", "_name_or_path": name_or_path}
        for path in self.feature_heads.values():
            *parents, last = path.split(".")
            module: nn.Module = self
            for name in parents:
                if not hasattr(module, name):
                    module.add_module(name, nn.Module())
                module = getattr(module, name)
            module.add_module(last, nn.Identity())

    def forward(self, image_embeds: Tensor, text_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Both kinds of embeddings through their heads, `[N, d]` and `[M, d]`."""
        image, text = (self.get_submodule(self.feature_heads[side]) for side in ("image", "text"))  # type: ignore[index]
        return image(image_embeds), text(text_embeds)


def heads_and_width(model: Any) -> tuple[dict[Modality, str], int]:
    """The heads of a model by modality, and the size of the shared space.

    Raises:
        `ClipAlignError`: its family has no modules that could be wrapped.
    """
    if isinstance(model, EmbeddingSpace):
        return model.feature_heads, model.embed_dim
    encoder = as_dual_encoder(model)
    if encoder.feature_heads is None:
        raise ClipAlignError(
            f"the heads of {type(encoder.model).__name__} are no modules that an adapter could wrap: learn it on "
            "stored embeddings, get_peft_model(EmbeddingSpace(embed_dim), RETuneConfig())."
        )
    return encoder.feature_heads, encoder.embed_dim


def adapt_image(model: Any, embeds: Tensor) -> Tensor:
    """The active adapter on image embeddings.

    Args:
        model (`PeftModel`): a CLIP or an `EmbeddingSpace` with a RE-tune adapter.
        embeds (`Tensor [N, d]`): behind the projector and NOT of unit length, as the adapter was trained.

    Returns:
        `Tensor [N, d]`: the embeddings as they are where the adapter has no image side or is disabled.

    Raises:
        `ClipAlignError`: embeddings that are no tensor, or of another width, or no RE-tune adapter.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig, adapt_image
        >>> adapter = get_peft_model(EmbeddingSpace(128), RETuneConfig(identity_start=True))
        >>> torch.allclose(adapt_image(adapter, embeds), embeds, atol=1e-5)
        True
        ```
    """
    return _adapt(model, "image", embeds)


def adapt_text(model: Any, embeds: Tensor) -> Tensor:
    """The active adapter on text embeddings.

    Args:
        model (`PeftModel`): a CLIP or an `EmbeddingSpace` with a RE-tune adapter.
        embeds (`Tensor [M, d]`): behind the projector and NOT of unit length.

    Returns:
        `Tensor [M, d]`: as `adapt_image`.

    Raises:
        `ClipAlignError`: as `adapt_image`.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig, adapt_text
        >>> adapt_text(get_peft_model(EmbeddingSpace(128), RETuneConfig()), torch.randn(3, 128)).shape
        torch.Size([3, 128])
        ```
    """
    return _adapt(model, "text", embeds)


def load_without_towers(folder: str | Path, **kwargs: Any) -> Any:
    """An adapter for use on stored embeddings, without its base model.

    Args:
        folder (`str` or `Path`): folder or Hub id of a RE-tune adapter.
        **kwargs: passed to `PeftModel.from_pretrained` (`adapter_name`, `is_trainable`, `revision`, …).

    Returns:
        `PeftModel`: for `adapt_image` and `adapt_text`.

    Raises:
        `ClipAlignError`: there is no adapter, or one of another kind.

    Example:
        ```python
        >>> from peft import get_peft_model
        >>> from hf_clipalign.tuners import EmbeddingSpace, RETuneConfig, adapt_image, load_without_towers
        >>> get_peft_model(EmbeddingSpace(128), RETuneConfig()).save_pretrained("adapter")
        >>> adapt_image(load_without_towers("adapter"), embeds).shape
        torch.Size([24, 128])
        ```
    """
    from peft import PeftConfig, PeftModel

    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # what odd files raise in PEFT is of any kind
        raise ClipAlignError(
            f"{str(folder)!r} holds no adapter that can be read ({short_reason(error)}): give the folder or Hub id of "
            "a saved one."
        ) from error
    if str(config.peft_type.value) != "CLIP_RETUNE":
        raise ClipAlignError(f"{str(folder)!r} holds an adapter of type {config.peft_type.value}, not RE-tune's.")
    heads: dict[Modality, str] = {"image": config.image_head, "text": config.text_head}
    with explained_content(folder):
        space = EmbeddingSpace(config.embed_dim, config.base_model_name_or_path or "", heads)
        return PeftModel.from_pretrained(space, str(folder), **kwargs)  # type: ignore[arg-type]


def _adapt(model: Any, side: Modality, embeds: Tensor) -> Tensor:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    heads, width = heads_and_width(base)
    check_tensors(embeds=embeds)
    if embeds.dim() != 2 or embeds.shape[1] != width:
        raise ClipAlignError(
            f"{side} embeddings of shape {tuple(embeds.shape)} do not fit the adapter's space: give [N, {width}]."
        )
    if not any(hasattr(base.get_submodule(path), "adapt") for path in heads.values()):
        raise ClipAlignError("the model has no RE-tune adapter: wrap it with get_peft_model(model, RETuneConfig()).")
    adapt = getattr(base.get_submodule(heads[side]), "adapt", None)
    return embeds if adapt is None else adapt(embeds)
