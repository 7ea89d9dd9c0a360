"""What the commands share: models, bands, and quiet libraries."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hf_clipalign._errors import ClipAlignError

console = Console(highlight=False, markup=False)
"""Where results go; square brackets stay what they are, as names and paths may hold them."""

BUILT_IN_MODELS = ("mini-student", "mini-teacher")

ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", help="Checkpoint folder, Hub id, or a built-in model (mini-student, mini-teacher)."),
]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps …")]
ImageColumnOption = Annotated[str | None, typer.Option(help="Tables and data sets: the column with images.")]
LabelColumnOption = Annotated[str | None, typer.Option(help="Tables and data sets: the column with classes.")]
SplitOption = Annotated[str | None, typer.Option(help="Data sets: which split.")]


def warn(word: str, text: str) -> None:
    """Prints a line whose first words are yellow."""
    console.print(Text.assemble((word, "yellow"), f" {text}"))


BaseModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="MODEL is a copy of this published model: take its bands. Default: found out by its names."
    ),
]


def parse_band(text: str | None) -> tuple[int, int] | None:
    """`"150,50"` as `(150, 50)`."""
    if text is None:
        return None
    try:
        k_top, k_bottom = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ClipAlignError(f"{text!r} is no band: write K_TOP,K_BOTTOM, for example 150,50.") from error
    return k_top, k_bottom


def load(model: str, device: str = "cpu", with_processor: bool = True) -> tuple[Any, Any]:
    """The model on its device, and its processor (None if not asked for)."""
    from transformers.utils import logging

    from hf_clipalign.backbones import as_dual_encoder, load_model, load_processor

    logging.disable_progress_bar()
    path = _built_in_path(model)
    loaded = load_model(path)
    as_dual_encoder(loaded)
    try:
        loaded = loaded.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ClipAlignError(f"cannot compute on {device!r}: {str(error).splitlines()[0]}") from error
    return loaded, load_processor(path) if with_processor else None


def _built_in_path(model: str) -> str:
    if model not in BUILT_IN_MODELS:
        return model
    from hf_clipalign.data import load_mini

    return str(getattr(load_mini(), f"{model.removeprefix('mini-')}_path"))
