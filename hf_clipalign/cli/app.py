"""All commands of `clipalign`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import hf_clipalign
from hf_clipalign.cli.command import Command, Commands, QueryCommand, ResumingCommand
from hf_clipalign.cli.commands import (
    app_server,
    benchmarks,
    compare,
    concepts,
    demo,
    discover,
    embed,
    evaluate,
    export,
    findings,
    push,
    spectrum,
    trim,
)
from hf_clipalign.cli.index_commands import duplicates, index, search, select, status, verify
from hf_clipalign.cli.store_commands import import_folder

app = typer.Typer(
    name="clipalign",
    cls=Commands,
    help="Make any CLIP better at what it was not trained for, and give the result back in a form that stock "
    "libraries load.\n\nStart with [bold]clipalign demo[/], then look at your own model with [bold]clipalign "
    "spectrum[/], choose a band with [bold]clipalign evaluate[/], write the result with [bold]clipalign trim[/] and "
    "give it to others with [bold]clipalign push[/]. Every command says what to run next.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

_RESUMING = (
    *(concepts.concepts, discover.discover, embed.embed, findings.findings, index.index),
    import_folder.import_folder,
)
_CLASSES: dict[Any, Any] = {search.search: QueryCommand, **dict.fromkeys(_RESUMING, ResumingCommand)}
_NAMES: dict[Any, str] = {import_folder.import_folder: "import"}

for _command in (
    demo.demo,
    index.index,
    search.search,
    duplicates.duplicates,
    select.select,
    status.status,
    verify.verify,
    app_server.app,
    spectrum.spectrum,
    embed.embed,
    import_folder.import_folder,
    evaluate.evaluate,
    compare.compare,
    concepts.concepts,
    discover.discover,
    findings.findings,
    trim.trim,
    export.export,
    push.push,
):
    app.command(_NAMES.get(_command), cls=_CLASSES.get(_command, Command))(_command)

app.add_typer(benchmarks.group)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clipalign {hf_clipalign.__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options before the command."""
