"""The model that a command works with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.names import (
    BUILT_IN_MODELS,
    is_built_in_data,
    is_built_in_model,
    is_model_folder,
    is_stored,
    nearest_path,
)
from hf_clipalign.cli.options import warn

_WHAT_TO_GIVE = (
    "a Hub id (openai/clip-vit-base-patch32), a checkpoint folder, or mini:student, the built-in tiny model of emoji "
    "and icons (not for photographs)"
)
_TEMPLATE = "a photo of a {}."
_BUILT_IN_TEMPLATE = "an emoji of {}"


def template_for(template: str | None, model: str, default: str = _TEMPLATE, loaded: Any = None) -> str:
    """The prompt: the given one, that of the adapter if the loaded model has one, or what the model was trained on."""
    if template is None and loaded is not None:
        from hf_clipalign.tuners import own_template

        template = own_template(loaded)
    return template or (_BUILT_IN_TEMPLATE if is_built_in_model(model) else default)


def chosen_model(model: str | None, data: str | None = None) -> str:
    """The model's name, checked as far as possible without loading it.

    Args:
        model (`str`, *optional*): Value of `--model`.
        data (`str`, *optional*): The user's data, if the command takes any.

    Returns:
        `str`: the name.

    Raises:
        `ClipAlignError`: no model for data that are not built in; a misspelt folder; a folder of images.
    """
    if model is None and data is not None and is_stored(data):
        from hf_clipalign.features import open_store

        model = open_store(data).model
    if model is None:
        if data is not None and is_built_in_data(data):
            return "mini:student"
        raise ClipAlignError(f"which model? Add --model with {_WHAT_TO_GIVE}.")
    if data is not None and is_built_in_model(model) and not is_built_in_data(data):
        warn("note:", f"{model} is a tiny model of emoji and icons, not for photographs: name your own with --model.")
    path = Path(model)
    if path.is_dir() and not is_model_folder(path):
        swapped = data is not None and (is_model_folder(data) or is_built_in_model(data) or not Path(data).exists())
        hint = f"DATA and --model look swapped, write {model} --model {data}" if swapped else f"give {_WHAT_TO_GIVE}"
        raise ClipAlignError(f"--model {model!r} is a folder without a model: {hint}.")
    if model.startswith("mini:") and not is_built_in_model(model):
        raise unknown_name("built-in model", model, ("mini:student", "mini:teacher"))
    if not path.exists() and not is_built_in_model(model) and (close := nearest_path(model)):
        raise ClipAlignError(f"no folder {model!r} for --model: did you mean {close!r}?")
    return model


def check_band(loaded: Any, name: str, base_model: str | None, bands: tuple[Any, Any]) -> None:
    """Refuses a model for which no band is given or published, unless it is aligned already.

    Args:
        loaded (`nn.Module`): The model.
        name (`str`): What it is called.
        base_model (`str`, *optional*): Value of `--base-model`.
        bands (`tuple`): Values of `--image-band` and `--text-band`.

    Raises:
        `ClipAlignError`: with the published models and their bands.
    """
    from hf_clipalign.isoclip import known_bands, unknown_band_message

    if bands == (None, None) and not hasattr(loaded, "aligned_backbone") and known_bands(loaded, base_model) is None:
        raise ClipAlignError(unknown_band_message(name, spelling="cli"))


def check_modality(aligned: Any, *modalities: str) -> None:
    """Refuses to export what was not aligned; a modality that there is not is left to the export.

    Args:
        aligned (`IsoCLIPModel`): The model.
        *modalities (`str`): What is wanted of it.

    Raises:
        `ClipAlignError`: no band of that modality.
    """
    for modality in modalities:
        if getattr(aligned.config, f"{modality}_band", ()) is None:
            raise ClipAlignError(
                f"there is no {modality} band: give --{modality}-band K_TOP,K_BOTTOM. `clipalign evaluate` finds one "
                "on labelled data, `clipalign spectrum` shows where to look."
            )


def load(model: str, device: str = "cpu", with_processor: bool = True) -> tuple[Any, Any]:
    """The model on its device, and its processor (None if it is not wanted)."""
    from transformers.utils import logging

    from hf_clipalign.backbones import as_dual_encoder, load_model, load_processor

    logging.disable_progress_bar()
    path = _path(model)
    loaded = load_model(path)
    as_dual_encoder(loaded)
    return on_device(loaded, device), load_processor(path) if with_processor else None


def on_device(model: Any, device: str) -> Any:
    """A model on the device that is meant by `--device`.

    Raises:
        `ClipAlignError`: there is no such device, or it has no room.
    """
    device = chosen_device(device)
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ClipAlignError(f"cannot compute on {device!r}: {str(error).splitlines()[0]}") from error


def chosen_device(device: str) -> str:
    """`auto` as `cuda` where there is a GPU, else `cpu`; under a launcher every process takes the GPU of its rank."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    rank = os.environ.get("LOCAL_RANK")
    return f"{device}:{rank}" if device == "cuda" and rank is not None else device


def _path(model: str) -> str:
    if not is_built_in_model(model):
        return model
    from hf_clipalign.data import load_mini

    return str(getattr(load_mini(), f"{BUILT_IN_MODELS[model]}_path"))
