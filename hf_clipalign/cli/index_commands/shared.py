"""What the commands of an index share: their first argument, the forms of their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.names import nearest_path
from hf_clipalign.cli.options import console

IndexArgument = Annotated[
    Path, typer.Argument(metavar="IDX", show_default=False, help="Folder of the index, made by `clipalign index`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV, nothing else.")]
HtmlOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write a page of thumbnails, in one file.")
]
HeadOption = Annotated[
    str | None,
    typer.Option(help="raw (the base model's) or aligned. Default: aligned, if the index has a band, else raw."),
]


def open_index(path: Path) -> Any:
    """The index in a folder.

    Raises:
        `ClipAlignError`: there is none; the nearest name is suggested.
    """
    from hf_clipalign.search import ImageIndex

    if not path.is_dir() and (close := nearest_path(str(path))):
        raise ClipAlignError(f"no index {str(path)!r}: did you mean {close!r}?")
    return ImageIndex.open(path)


def skipped_line(path: str, reason: str) -> str:
    """What is said about a file that cannot be read; reasons may begin with its path."""
    return printable(f"{path}: {reason.removeprefix(f'{path}: ')}")


def show(
    as_json: bool,
    as_csv: bool,
    html: Path | None,
    *,
    json_text: Callable[[], str],
    csv_text: Callable[[], str],
    table: Callable[[], Any],
    title: str,
    groups: Callable[[], Sequence[Any]],
) -> bool:
    """Prints a result in the wanted form and writes its page; whether a person reads what is printed.

    Raises:
        `ClipAlignError`: two forms at once, or the page cannot be written.
    """
    if as_json and as_csv:
        raise ClipAlignError("--json and --csv are two forms of one output: give one of them.")
    if html is not None:
        from hf_clipalign.search.answers.pages import write_page

        if html.suffix.lower() not in (".html", ".htm"):
            raise ClipAlignError(f"--html {str(html)!r} is no page: name a file that ends in .html.")
        write_page(html, title, groups())
    if as_json or as_csv:
        typer.echo(json_text() if as_json else csv_text())
        return False
    if (printed := table()) is not None:
        console.print(printed)
    if html is not None:
        console.print(f"page: {html}", soft_wrap=True)
    return True
