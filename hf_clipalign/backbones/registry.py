"""Which view serves which model."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones.dual_encoder import DualEncoder

_View = TypeVar("_View", bound=type[DualEncoder])

_VIEW_BY_MODEL_TYPE: dict[str, type[DualEncoder]] = {}
_BUILT_IN_FAMILIES = ("clip", "siglip", "other_towers", "open_clip")


def register_backbone(*model_types: str) -> Callable[[_View], _View]:
    """Class decorator: the view serves models whose `config.model_type` is one of `model_types`.

    Args:
        *model_types (`str`): as in the configurations of the family.

    Returns:
        `Callable`: the decorator, for a subclass of `DualEncoder`.

    Example:
        ```python
        >>> from hf_clipalign.backbones import DualEncoder, register_backbone, supported_model_types
        >>> @register_backbone("my-clip")
        ... class MyEncoder(DualEncoder):
        ...     "Overrides what its family does differently."
        >>> "my-clip" in supported_model_types()
        True
        ```
    """

    def register(view: _View) -> _View:
        _VIEW_BY_MODEL_TYPE.update(dict.fromkeys(model_types, view))
        return view

    return register


def supported_model_types() -> list[str]:
    """The `config.model_type` values that `as_dual_encoder` accepts, sorted.

    Returns:
        `list[str]`: the types.

    Example:
        ```python
        >>> from hf_clipalign.backbones import supported_model_types
        >>> [name for name in supported_model_types() if name.startswith("clip")]
        ['clip', 'clipseg']
        ```
    """
    _load_built_in_families()
    return sorted(_VIEW_BY_MODEL_TYPE)


def as_dual_encoder(model: Any) -> DualEncoder:
    """Gives the one view of a vision-language model that every method of this package works on.

    Args:
        model (`nn.Module` or `DualEncoder`): a two-tower model of a supported family, bare, inside a `PeftModel`, or
            inside an alignment model of this package. A view is returned as it is.

    Returns:
        `DualEncoder`: the view. It shares the model's weights.

    Raises:
        `ClipAlignError`: the model has no two towers, or its family is not known.

    Example:
        ```python
        >>> from hf_clipalign.backbones import as_dual_encoder
        >>> as_dual_encoder(model).image_projector.weight.shape
        torch.Size([128, 128])
        ```
    """
    if isinstance(model, DualEncoder):
        return model
    base = _unwrap(model)
    model_type = _model_type(base)
    _load_built_in_families()
    view = _VIEW_BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if view is None or not isinstance(base, nn.Module):
        raise ClipAlignError(_unknown_family_message(base, model_type))
    return view(base)


def _model_type(model: Any) -> Any:
    """`config.model_type`; open_clip's models have no configuration and are known by their package."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type is None and type(model).__module__.split(".")[0] == "open_clip":
        return "open_clip"
    return model_type


def _unwrap(model: Any) -> Any:
    """The two-tower model inside a PEFT model or an alignment model."""
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return getattr(model, "aligned_backbone", model)


def _load_built_in_families() -> None:
    for family in _BUILT_IN_FAMILIES:
        importlib.import_module(f"hf_clipalign.backbones.{family}")


def _unknown_family_message(model: Any, model_type: str | None) -> str:
    known = ", ".join(sorted(_VIEW_BY_MODEL_TYPE))
    kind = f"{type(model).__name__} (model_type {model_type!r})" if model_type else type(model).__name__
    return (
        f"{kind} is not a two-tower CLIP-like model that hf_clipalign knows. Known model types: {known}. "
        "A single tower cannot be aligned: load the full model, for example with AutoModel. "
        "To add a family, subclass DualEncoder and decorate it with register_backbone (see CONTRIBUTING.md)."
    )
