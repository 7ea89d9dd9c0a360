"""`clipalign embed`: images to features, once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.urls import is_url, shown
from hf_clipalign.cli.data import check_data, check_out, open_data
from hf_clipalign.cli.models import chosen_model, load
from hf_clipalign.cli.options import (
    DeviceOption,
    ImageColumnOption,
    LabelColumnOption,
    ModelOption,
    SplitOption,
    console,
    folder_option,
    next_step,
    warn,
)


def embed(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Folder of images (class = sub-folder), of tars (WebDataset, img2dataset) or of parquet files, "
            "CSV/TSV/parquet table, Hub id, or mini:emoji, the built-in images.",
        ),
    ],
    model: ModelOption = None,
    out: Annotated[Path, folder_option("Folder for shards and features.json.", writes="features")] = Path("features"),
    batch_size: Annotated[int, typer.Option(help="Images per pass.", min=1)] = 64,
    shard_size: Annotated[int, typer.Option(help="Images per file.", min=1)] = 4096,
    workers: Annotated[
        int | None, typer.Option(help="Processes that read images. Default: by the number of images.", min=0)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Compute in float32, bfloat16 or float16; features stay float32. Default: the model's own."),
    ] = None,
    image_column: ImageColumnOption = None,
    label_column: LabelColumnOption = None,
    split: SplitOption = None,
    streaming: Annotated[
        bool, typer.Option("--streaming", help="Hub ids: read the data set as it comes, without storing it.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable image.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace features of another model or other data.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Take a model's features of images and keep them BEFORE the projector.

    Every head and band can then be tried without looking at the images again: [bold]clipalign evaluate features/[/].
    The same command resumes a run that was stopped. Several processes share the work under
    [bold]torchrun --nproc_per_node 2 -m hf_clipalign.cli embed …[/].

    Example: [bold]clipalign embed photos/ --model openai/clip-vit-base-patch32 --out photos-b32[/]
    """
    from hf_clipalign.features import FeatureStore, extract_to_store
    from hf_clipalign.features.ranks import leave_processes

    check_data(data)
    if is_url(data):
        raise ClipAlignError(f"{shown(data)!r}: images are read from a disk or the Hub; copy or mount them.")
    check_out(out, data)
    model = chosen_model(model, data)
    source: Any
    if streaming:
        source = _open_stream(data, image_column, label_column, split)
    else:
        source = open_data(data, image_column, label_column, split)
    if hasattr(source, "manifest"):
        held = "features" if isinstance(source, FeatureStore) else "embeddings"
        raise ClipAlignError(f"{data!r} holds {held} already: give images, or run clipalign evaluate {data}.")
    loaded, processor = load(model, device)
    store = extract_to_store(
        loaded,
        source,
        processor,
        out,
        shard_size=shard_size,
        batch_size=batch_size,
        num_workers=workers,
        strict=strict,
        dtype=dtype,
        overwrite=overwrite,
        model_name=model,
    )
    leave_processes()
    if os.environ.get("RANK", "0") == "0":
        console.print(f"{counted(len(store), 'image')}, features of dimension {store.width}: {out}", soft_wrap=True)
        for name, reason in store.skipped:
            warn("skipped", f"{name}: {reason}")
        if store.class_names is not None and len(store.class_names) > 1:
            next_step("clipalign", "evaluate", out, "--model", model)
        else:
            next_step("clipalign", "concepts", out, "--model", model)


def _open_stream(name: str, image_column: str | None, label_column: str | None, split: str | None) -> Any:
    import datasets

    from hf_clipalign.data import open_stream

    if split is None:
        raise ClipAlignError("--streaming needs --split: a stream is one split of a data set.")
    try:
        dataset = datasets.load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise ClipAlignError(f"cannot stream {name!r}: {str(error).splitlines()[0]}") from error
    return open_stream(dataset, image_column, label_column)
