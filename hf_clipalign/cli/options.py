"""The options that commands share, spelled alike in all of them, and the console that commands print to."""

from __future__ import annotations

import os
import shlex
import string
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from hf_clipalign._checks.quoting import readable_name, short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.names import holds_embeddings, holds_features, holds_index, is_foreign_page, is_model_folder

_PLAIN = frozenset(string.ascii_letters + string.digits + "_@%+=:,./- ")

console = Console(highlight=False, markup=False)
"""Where results go; square brackets stay what they are, as names and paths may hold them."""

DATA_HELP = (
    "Folder of images (class = sub-folder), of tars (WebDataset, img2dataset) or of parquet files, CSV/TSV/parquet "
    "table, Hub id, folder or URL of features (`clipalign embed`) or embeddings (`clipalign import`), or mini:emoji, "
    "the built-in images."
)
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        show_default=False,
        help="Hub id, checkpoint folder, or mini:student or mini:teacher, tiny built-in models of emoji and icons. "
        "Needed, except with built-in data.",
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(help="Where to compute: auto (a GPU if there is one, else cpu), cpu, cuda, cuda:1, mps …"),
]
BaseModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="The model is a copy of this published one: take its bands. Default: by its names."
    ),
]
ImageBandOption = Annotated[
    str | None,
    typer.Option(metavar="K_TOP,K_BOTTOM", help="Band for images. Default: the model's own or its published one."),
]
TextBandOption = Annotated[
    str | None,
    typer.Option(metavar="K_TOP,K_BOTTOM", help="Band for texts. Default: the model's own or its published one."),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        help="Prompt with one {}. Default: that of the model's adapter; without one 'a photo of a {}.', for the "
        "built-in models 'an emoji of {}'."
    ),
]
ImageColumnOption = Annotated[str | None, typer.Option(help="Tables and data sets: the column with images.")]
LabelColumnOption = Annotated[str | None, typer.Option(help="Tables and data sets: the column with classes.")]
SplitOption = Annotated[str | None, typer.Option(help="Data sets: which split.")]


def folder_option(help_text: str, page: str | None = None, writes: str = "results") -> Any:
    """The option `--out` of a command that writes a folder. What must not be written to is refused before any work.

    That is a file, a name that is not UTF-8, which writers of weights cannot take, and a folder that holds something
    else: a model, an index, features, or a page that no command wrote.

    Args:
        help_text (`str`): The help.
        page (`str`, *optional*): Name of the page that it writes there.
        writes (`str`, *optional*, defaults to "results"): What the command writes, as in `_KINDS`.
    """

    def check(out: Path | None) -> Path | None:
        if out is None:
            return None
        name = readable_name(str(out))
        if out.is_file():
            raise ClipAlignError(f"--out {name!r} is a file: name a folder.")
        if name != str(out):
            raise ClipAlignError(f"--out {name!r} is not UTF-8: give the folder another name.")
        kind = next((kind for kind, is_there in _KINDS.items() if is_there(out)), writes)
        if writes != "a model" and kind != writes:
            raise ClipAlignError(f"--out {name!r} holds {kind}: give another folder for the result.")
        if page is not None and is_foreign_page(out / page):
            raise ClipAlignError(f"--out {name!r} holds a page {page} that no command wrote: give another folder.")
        return out

    return typer.Option("--out", help=help_text, callback=check)


_KINDS = {
    "a model": is_model_folder,
    "an index": holds_index,
    "features": holds_features,
    "embeddings": holds_embeddings,
}


def repo_option(repo_id: str | None) -> str | None:
    """Callback: a repository needs its owner."""
    if repo_id is not None and repo_id.count("/") != 1:
        name = repo_id.rsplit("/", 1)[-1] or "NAME"
        raise ClipAlignError(f"{repo_id!r} is no repository: write OWNER/{name}, with your user name as the owner.")
    return repo_id


def warn(word: str, text: str) -> None:
    """Prints a line whose first words are yellow."""
    console.print(Text.assemble((word, "yellow"), f" {text}"), soft_wrap=True)


def next_step(*command: object) -> None:
    """Prints the command that follows, on one line that can be copied."""
    line = " ".join(quoted_word(str(word)) for word in command)
    console.print(Text.assemble(("next:", "cyan"), f" {line}"), soft_wrap=True)


def quoted_word(word: str) -> str:
    """A word for a shell, on one line of valid UTF-8: names that are not printable as Bash writes them, `$'a\\nb'`."""
    if word.startswith("-") and not word.startswith("--"):
        word = f"./{word}"
    if word.isprintable():
        return shlex.quote(word)
    escaped = (chr(byte) if chr(byte) in _PLAIN else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(escaped)}'"


def parse_band(text: str | None) -> tuple[int, int] | None:
    """`"150,50"` as `(150, 50)`."""
    if text is None:
        return None
    try:
        k_top, k_bottom = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ClipAlignError(f"{short(text)} is no band: write K_TOP,K_BOTTOM, for example 150,50.") from error
    return k_top, k_bottom
