"""`clipalign import`: embeddings that another program made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign.cli.data import check_out, check_path
from hf_clipalign.cli.options import LabelColumnOption, console, folder_option, next_step, warn


def import_folder(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Output folder of `clip-retrieval inference`: img_emb/, metadata/.")
    ],
    out: Annotated[Path, folder_option("Folder for the shards and embeddings.json.", writes="embeddings")] = Path(
        "embeddings"
    ),
    modality: Annotated[str, typer.Option(help="image or text.")] = "image",
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model that made them; the files do not say it.")
    ] = None,
    label_column: LabelColumnOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other embeddings in OUT.")] = False,
) -> None:
    """Take over the embeddings that clip-retrieval made, with their metadata, into a store that proves itself.

    They are behind the projector: they can be compared, searched, filtered and exported, but no head and no band can
    be applied to them any more. The same command resumes an import that was stopped.

    Example: [bold]clipalign import laion/ --model openai/clip-vit-base-patch32 --out laion-embeddings[/]
    """
    from hf_clipalign.features import import_clip_retrieval

    if modality not in ("image", "text"):
        raise unknown_name("modality", modality, ("image", "text"))
    check_path(folder)
    check_out(out, folder)
    chosen: Any = modality
    store = import_clip_retrieval(
        folder, out, modality=chosen, model=model, label_column=label_column, overwrite=overwrite
    )
    console.print(
        f"{len(store):,} {modality} embeddings of dimension {store.width} ({store.manifest['dtype']}): {out}",
        soft_wrap=True,
    )
    if not store.normalized:
        warn("note:", "not all of them have unit length; they are compared by their directions.")
    if store.class_names is not None and len(store.class_names) > 1:
        next_step("clipalign", "evaluate", out)
    elif modality == "image":
        next_step("clipalign", "concepts", out, "--model", model or "MODEL")
