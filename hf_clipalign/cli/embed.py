"""`clipalign embed`: pictures to features, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_clipalign.cli.common import DeviceOption, ModelOption, console, load


def embed(
    images: Annotated[
        str, typer.Argument(help="A folder (class = sub-folder), a CSV/TSV/parquet table, or a Hub id.")
    ],
    model: ModelOption = "mini-student",
    out: Annotated[Path, typer.Option(help="Folder for features.safetensors and features.json.")] = Path("features"),
    batch_size: Annotated[int, typer.Option(help="Pictures per pass.", min=1)] = 64,
    workers: Annotated[
        int | None, typer.Option(help="Processes that read pictures. Default: by their number.")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Tables and data sets: the column with pictures.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Tables and data sets: the column with classes.")] = None,
    split: Annotated[str | None, typer.Option(help="Data sets: which split.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable picture.")] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Take a model's features of pictures and keep them BEFORE the projector.

    Every head and band can then be tried without looking at the pictures again: [bold]clipalign evaluate features/[/].

    Example: [bold]clipalign embed photos/ --model openai/clip-vit-base-patch32 --out photos-b32[/]
    """
    from hf_clipalign.data import open_source
    from hf_clipalign.evaluation import extract_image_features

    source = open_source(images, image_column=image_column, label_column=label_column, split=split)
    loaded, processor = load(model, device)
    features = extract_image_features(
        loaded, source, processor, batch_size=batch_size, num_workers=workers, strict=strict
    )
    features.model = model
    features.save(out)
    console.print(f"{len(features)} pictures, {features.values.shape[1]} numbers each: {out}")
    for name, reason in features.skipped:
        console.print(f"[yellow]skipped[/] {name}: {reason}")
