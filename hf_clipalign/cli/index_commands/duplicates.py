"""`clipalign duplicates`: files that show the same image, and images that are alike."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_clipalign._checks.quoting import counted
from hf_clipalign._checks.suggestions import unknown_name
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.index_commands.shared import (
    CsvOption,
    HeadOption,
    HtmlOption,
    IndexArgument,
    JsonOption,
    open_index,
    show,
)
from hf_clipalign.cli.options import console, next_step

_KINDS = {"copies": "copies", "same": "same image", "similar": "similar"}


def duplicates(
    index: IndexArgument,
    threshold: Annotated[float, typer.Option(help="Smallest cosine of a pair.")] = 0.95,
    only: Annotated[
        str | None, typer.Option(metavar="KIND", help="copies (equal bytes), same (the same image again) or similar.")
    ] = None,
    head: HeadOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    html: HtmlOption = None,
) -> None:
    """List duplicates with a suggestion which file to keep. Nothing is deleted.

    Three kinds are told apart: files with equal bytes; the same image again, resized or saved anew (their pixels are
    compared, extra `search`); and images that are merely alike, for which nothing is suggested. The file to keep is
    the largest image, of these the largest and then the oldest file.

    Examples:

    [bold]clipalign duplicates photos.index --html duplicates.html[/]

    [bold]clipalign duplicates photos.index --only same --csv > duplicates.csv[/]
    """
    from hf_clipalign.search.answers.groups import (
        UNCHECKED,
        find_duplicates,
        groups_as_csv,
        groups_as_json,
        groups_as_table,
        groups_as_tiles,
        groups_too_large,
    )
    from hf_clipalign.search.answers.pixels import is_installed

    if only is not None and only not in _KINDS:
        raise unknown_name("kind", only, _KINDS)
    if only == "same" and not is_installed():
        raise ClipAlignError(
            "--only same compares pixels, which needs a further package: pip install 'hf_clipalign[search]'."
        )
    opened = open_index(index)
    groups = find_duplicates(opened, threshold, head=head, progress=True)
    if only is not None:
        kinds = {_KINDS[only]} | ({UNCHECKED} if only == "similar" else set())
        groups = [group for group in groups if group.kind in kinds]
    is_read = show(
        as_json,
        as_csv,
        html,
        json_text=lambda: groups_as_json(groups),
        csv_text=lambda: groups_as_csv(groups),
        table=lambda: groups_as_table(groups) if groups else None,
        title="Duplicates",
        groups=lambda: groups_as_tiles(groups),
    )
    for size in groups_too_large(groups, opened):
        _warn_of_chain(size, len(opened.files.names), threshold)
    if is_read and not groups:
        kind = "" if only is None else f" of the kind {only!r}"
        console.print(f"no duplicates{kind} with a cosine of {threshold:g} or more.")
    elif is_read and html is None:
        next_step("clipalign", "duplicates", index, "--html", "duplicates.html")


def _warn_of_chain(size: int, total: int, threshold: float) -> None:
    """Says so on the standard error, which leaves JSON and CSV as they are."""
    typer.echo(
        f"warning: a group of images that are merely alike holds {size:,} of {counted(total, 'file')}: --threshold "
        f"{threshold:g} is too low for this model, give a higher one.",
        err=True,
    )
