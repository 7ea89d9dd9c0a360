"""`clipalign verify`: whether an index is as it was written."""

from __future__ import annotations

import typer

from hf_clipalign._checks.quoting import counted, printable
from hf_clipalign.cli.index_commands.shared import IndexArgument, open_index
from hf_clipalign.cli.options import console, next_step, warn


def verify(index: IndexArgument) -> None:
    """Read all of an index and name what is damaged. Exit code 1 if anything is.

    Example: [bold]clipalign verify photos.index[/]
    """
    from hf_clipalign.search.sidecars.choice import damaged_sidecars

    opened = open_index(index)
    problems = [*opened.verify(), *damaged_sidecars(opened)]
    for problem in problems:
        warn("damaged:", printable(problem))
    if problems:
        next_step("clipalign", "index", index, "--repair")
        raise typer.Exit(1)
    console.print(f"no damage: {counted(len(opened), 'image')}", soft_wrap=True)
