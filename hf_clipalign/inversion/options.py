"""The options of an inversion that is chosen by its name, checked before anything is computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.backbones import DualEncoder
from hf_clipalign.inversion.image import check_patches, ovi
from hf_clipalign.inversion.optimisation import InversionOutput, InversionSettings
from hf_clipalign.inversion.text import oti, pseudo_prompt

INVERSIONS: dict[str, Callable[..., InversionOutput]] = {"oti": oti, "ovi": ovi}

_NO_OPTIONS = ("processor", "init", "generator", "ids")


def complete_options(method: str, encoder: DualEncoder, processor: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of `oti` or `ovi`, defaults included: what they refuse is refused here.

    Args:
        method (`str`): `"oti"` or `"ovi"`.
        encoder (`DualEncoder`): the backbone.
        processor (`ProcessorMixin`, *optional*): for the prompt of OTI.
        options (`Mapping`): given options, without `init`, `generator` and `ids`.

    Raises:
        `ClipAlignError`: a method or option that does not exist, one that is missing, or a value that cannot be used.
    """
    if method not in INVERSIONS:
        raise ClipAlignError(f"unknown method {method!r}: choose oti or ovi.")
    parameters = inspect.signature(INVERSIONS[method]).parameters.values()
    known = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in _NO_OPTIONS
    }
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ClipAlignError(f"{method} has no option {unknown[0]!r}: there are {', '.join(known)}.")
    settings = {**known, **options}
    missing = [name for name, value in settings.items() if value is inspect.Parameter.empty]
    if missing:
        raise ClipAlignError(f"{method} needs {missing[0]}: pass it.")
    InversionSettings(**{field.name: settings[field.name] for field in fields(InversionSettings)})
    if method == "oti":
        pseudo_prompt(encoder, processor, settings["template"], settings["n_tokens"])
    else:
        check_patches(encoder, settings["n_tokens"])
    return settings
