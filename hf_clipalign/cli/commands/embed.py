"""`clipalign embed`: images to features, once."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted, short
from hf_clipalign._checks.suggestions import unknown_name
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
from hf_clipalign.cli.store_commands.embedding_status import show_status

_ENGINES = ("plain", "ray")


def _share_option(share: str | None) -> str | None:
    """Callback: a share is a number, a slash, and how many there are."""
    if share is not None and not re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", share):
        raise ClipAlignError(f"--shard {short(share)} is no share: write I/N, for example 1/8 to 8/8.")
    return share


def _engine_option(engine: str) -> str:
    if engine not in _ENGINES:
        raise unknown_name("engine", engine, _ENGINES)
    return engine


def embed(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            show_default=False,
            help="Folder of images (class = sub-folder), of tars (WebDataset, img2dataset) or of parquet files, "
            "CSV/TSV/parquet table, Hub id, or mini:emoji, the built-in images. Needed, except with --status.",
        ),
    ] = None,
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
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            callback=_share_option,
            help="Make only every N-th shard, from the I-th on (1/N to N/N): for Slurm arrays and machines that share "
            "a disk.",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            callback=_engine_option,
            help="plain: this process, or those of torchrun. ray: a cluster (pip install 'hf_clipalign\\[ray]').",
        ),
    ] = "plain",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ray: a running cluster, or auto for the one of this machine. Default: this machine alone.",
        ),
    ] = None,
    towers: Annotated[
        int | None,
        typer.Option(
            "--num-workers", min=1, help="Ray: actors that run the model. Default: one for each GPU, or for each node."
        ),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Say how far the run in --out is, by whom and how fast, and what is left.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Take a model's features of images and keep them BEFORE the projector.

    Every head and band can then be tried without looking at the images again: [bold]clipalign evaluate features/[/].
    The same command resumes a run that was stopped. Several processes share the work under
    [bold]torchrun --nproc_per_node 2 -m hf_clipalign.cli embed …[/], several machines with [bold]--shard 1/8[/] to
    [bold]--shard 8/8[/]; each way resumes what another has begun.

    Example: [bold]clipalign embed photos/ --model openai/clip-vit-base-patch32 --out photos-b32[/]
    """
    if status:
        show_status(out)
        return
    if data is None:
        raise typer.BadParameter("images are missing; without them only --status works", param_hint="'DATA'")
    _check_engine(engine, address, towers, shard, streaming)
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
        from hf_clipalign.features import FeatureStore

        held = "features" if isinstance(source, FeatureStore) else "embeddings"
        raise ClipAlignError(f"{data!r} holds {held} already: give images, or run clipalign evaluate {data}.")
    loaded, processor = load(model, "cpu" if engine == "ray" else device)
    options: dict[str, Any] = {
        "shard_size": shard_size,
        "batch_size": batch_size,
        "num_workers": workers,
        "strict": strict,
        "dtype": dtype,
        "model_name": model,
    }
    if shard is not None:
        store = _extract_share(loaded, source, processor, out, shard, overwrite, options)
    elif engine == "ray":
        options |= {"num_workers": towers, "address": address, "device": device, "overwrite": overwrite}
        store = _extract_with_ray(loaded, source, processor, out, **options)
    else:
        store = _extract(loaded, source, processor, out, overwrite=overwrite, **options)
    if store is not None and os.environ.get("RANK", "0") == "0":
        _report(store, out, model)


def _check_engine(engine: str, address: str | None, towers: int | None, shard: str | None, streaming: bool) -> None:
    """Refuses options that are not of the chosen engine."""
    if engine != "ray" and (address is not None or towers is not None):
        raise ClipAlignError("--address and --num-workers are Ray's: add --engine ray, or leave them out.")
    if engine == "ray" and shard is not None:
        raise ClipAlignError("--engine ray shares out all shards itself: leave out --shard, or --engine ray.")
    if engine == "ray" and streaming:
        raise ClipAlignError("--engine ray needs to know how many images there are: leave out --streaming or Ray.")


def _extract_with_ray(*arguments: Any, **options: Any) -> Any:
    from hf_clipalign.features import extract_with_ray

    return extract_with_ray(*arguments, **options)


def _extract(*arguments: Any, **options: Any) -> Any:
    from hf_clipalign.features import extract_to_store
    from hf_clipalign.features.ranks import leave_processes

    store = extract_to_store(*arguments, **options)
    leave_processes()
    return store


def _extract_share(
    loaded: Any, source: Any, processor: Any, out: Path, shard: str, overwrite: bool, options: dict[str, Any]
) -> Any:
    from hf_clipalign.features import extract_share

    if overwrite:
        raise ClipAlignError(
            f"--overwrite would remove what other shares have made: delete {str(out)!r}, then run them without it."
        )
    index, count = map(int, shard.split("/"))
    store = extract_share(loaded, source, processor, out, share=(index, count), **options)
    if store is None:
        console.print(f"share {shard} is done, others are missing: {out}", soft_wrap=True)
        next_step("clipalign", "embed", "--out", out, "--status")
    return store


def _report(store: Any, out: Path, model: str) -> None:
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
