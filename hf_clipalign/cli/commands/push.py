"""`clipalign push`: a saved folder to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_clipalign.cli.options import console, next_step, repo_option

PrivateOption = Annotated[
    bool, typer.Option("--private", help="Into a private repository: a public one of that name is refused.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch to commit to; made if it does not exist.")]
OverwriteCardOption = Annotated[
    bool, typer.Option("--overwrite-card", help="Replace the model card that the repository has.")
]

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace whatever the output folder holds, after saying what is lost.")
]


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Aligned model, stock checkpoint or PEFT adapter.")],
    repo_id: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME", help="Repository on the Hub; made if it does not exist.", callback=repo_option
        ),
    ],
    private: PrivateOption = False,
    revision: RevisionOption = None,
    overwrite_card: OverwriteCardOption = False,
    results: Annotated[
        Path | None, typer.Option(help="results.json of `clipalign evaluate`, for the model card.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Title of the commit.")] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Upload this file or sub-folder, too; may be given several times."),
    ] = None,
) -> None:
    """Push a folder to the Hugging Face Hub with a model card: everything in one commit, or nothing.

    Only files that belong to such a folder are uploaded; the others are listed, and --include adds one by its name.
    A card that the repository has already is kept. Log in with [bold]hf auth login[/] or set HF_TOKEN.

    Examples:

    [bold]clipalign push clip-b32-isoclip me/clip-b32-isoclip --private[/]

    [bold]clipalign push isoclip me/photos-isoclip --results evaluation/results.json[/]
    """
    from hf_clipalign.cli.data import check_path
    from hf_clipalign.hub import describe_folder, push_folder, read_evaluations

    check_path(str(folder))
    evaluations = [] if results is None else read_evaluations(results, describe_folder(folder, repo_id))
    commit = push_folder(
        folder,
        repo_id,
        private=private or None,
        revision=revision,
        commit_message=message,
        overwrite_card=overwrite_card,
        evaluations=evaluations,
        include=include or (),
    )
    console.print(f"pushed: {commit}", soft_wrap=True)
    next_step("clipalign", "evaluate", "DATA", "--model", repo_id)
