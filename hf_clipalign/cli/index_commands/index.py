"""`clipalign index`: make the index of image folders, or bring it up to date."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import counted, printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._tables import NumberTable
from hf_clipalign.cli.command import in_options
from hf_clipalign.cli.data import check_path
from hf_clipalign.cli.index_commands.shared import skipped_line
from hf_clipalign.cli.models import chosen_model, load
from hf_clipalign.cli.names import holds_index
from hf_clipalign.cli.options import ModelOption, console, folder_option, next_step, parse_band, warn

_SHOWN_SKIPPED = 5
_COUNTS = {
    "added": "new images",
    "changed": "other content than before",
    "renamed": "found under another name, not embedded again",
    "deleted": "gone",
    "duplicate": "further files with the bytes of one that is there",
    "reused": "as before",
    "embedded_again": "their features were lost by damage to the index",
    "skipped": "cannot be read",
    "not_looked_at": "their folder is not there or cannot be read; not forgotten",
}


def index(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DIR...", help="Folders of images with all that lies below; or the index to update."),
    ] = None,
    model: ModelOption = None,
    out: Annotated[
        Path | None,
        folder_option(
            "Folder of the index. Default: the name of the first folder with `.index` at its end.", writes="an index"
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out names, as in a .gitignore; can be given several times."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="HEAD",
            help="Band of the head for image-image search: auto (the model's or its published one, else measured on "
            "the images), none, or K_TOP,K_BOTTOM. Default: auto when the index is made, later what it is.",
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what `clipalign verify` finds; try unreadable files again.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps …")] = None,
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx",
            help="Keep the text tower in the index as ONNX, so that words are answered without torch where the model "
            "is no CLIP (CLIP needs no such file).",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images per pass.", min=1)] = 64,
    workers: Annotated[int | None, typer.Option(help="Processes that read images.", min=0)] = None,
) -> None:
    """Make the index of one or several folders of images, or bring it up to date.

    Only images whose content is new go through the model: files that were renamed, copied or touched are known by
    their bytes. A run that is killed loses nothing; run the same again. A folder that is not there forgets nothing;
    exit code 1 if none is there.

    Examples:

    [bold]clipalign index photos/ --model openai/clip-vit-base-patch32[/]

    [bold]clipalign index photos.index[/]   (what is new, changed, renamed, gone since)

    [bold]clipalign index photos/ scans/ --model my-clip/ --out all.index --ignore "*.tif" --ignore drafts/[/]
    """
    given = list(folders or [])
    path = _place(given, out)
    band = None if head in (None, "auto") else _band(str(head))
    loaded, is_new = None, not holds_index(path)
    if is_new:
        opened = _made(path, given, model, ignore, band or ("raw" if head == "none" else "auto"), device)
    else:
        opened = _opened(path, given, ignore)
        if model is not None or device is not None:
            loaded, _ = load(chosen_model(model or opened.description["model"]["name"]), device or "auto", False)
        if head not in (None, "auto"):
            opened.set_head(band)
    report = opened.update(model=loaded, repair=repair, prepare=False, batch_size=batch_size, num_workers=workers)
    is_to_replace = not is_new and head == "auto" and not _took_known_band(opened)
    _show(report, opened)
    _calibrate(opened, head in (None, "auto"), is_to_replace, batch_size, workers)
    _prepare(opened)
    if onnx:
        _keep_text_tower(opened)
    if set(report.missing_roots) == set(opened.roots):
        raise typer.Exit(1)
    next_step("clipalign", "search", path, "WORDS")


def _place(given: list[Path], out: Path | None) -> Path:
    """The folder of the index; a single argument that is one is taken out of the folders."""
    if out is not None:
        return out
    if not given:
        raise ClipAlignError("which folder? Give one or several folders of images, or an index to update.")
    if len(given) == 1 and holds_index(given[0]):
        return given.pop()
    first = Path(os.path.abspath(given[0]))
    return Path(os.path.relpath(first.with_name(f"{first.name}.index")))


def _opened(path: Path, given: list[Path], ignore: list[str] | None) -> Any:
    """The index that is there, if it is the one that is meant."""
    from hf_clipalign.search import ImageIndex

    opened = ImageIndex.open(path)
    wanted = [os.path.abspath(folder.expanduser()) for folder in given]
    if wanted and sorted(wanted) != sorted(opened.roots):
        raise ClipAlignError(
            f"{str(path)!r} is the index of {_listed(opened.roots)}, not of {_listed(wanted)}: update it with "
            f"`clipalign index {path}`, or name another folder with --out."
        )
    if ignore and list(ignore) != list(opened.description["ignore"]):
        raise ClipAlignError(f"{str(path)!r} was made with other --ignore patterns: make another index with --out.")
    return opened


def _made(
    path: Path, given: list[Path], model: str | None, ignore: list[str] | None, head: Any, device: str | None
) -> Any:
    from hf_clipalign.search import ImageIndex
    from hf_clipalign.search.collection.creation import checked_roots
    from hf_clipalign.search.collection.scanning import ignore_rule

    if not given:
        raise ClipAlignError(f"{str(path)!r} holds no index yet: give the folders of images before --out.")
    for folder in given:
        check_path(str(folder))
    checked_roots(given)
    ignore_rule(ignore or ())
    name = chosen_model(model, str(given[0]))
    loaded, processor = load(name, device or "auto")
    return ImageIndex.create(given, loaded, path, processor=processor, head=head, ignore=ignore or ())


def _band(head: str) -> tuple[int, int] | None:
    return None if head == "none" else parse_band(head)


def _took_known_band(opened: Any) -> bool:
    """Sets the band of the model itself or the published one, if there is any."""
    band = opened.known_band()
    if band is not None:
        opened.set_head(band)
    return band is not None


def _show(report: Any, opened: Any) -> None:
    rows = [
        [name.replace("_", " "), f"{count:,}", meaning]
        for name, meaning in _COUNTS.items()
        if (count := getattr(report, name)) or name == "added"
    ]
    status = opened.status()
    heads = "raw" if status.band is None else f"raw, aligned (band {status.band[0]},{status.band[1]})"
    caption = f"{counted(status.files, 'file')}, {counted(status.images, 'image')}; heads: {heads}"
    console.print(NumberTable(["files", "count", "meaning"], rows, str(status.path), caption, texts=(0, 2)))
    if not status.images and not report.missing_roots:
        warn("note:", f"no image was found below {_listed(status.roots)}.")
    notes = _show_missing(report)
    tried = [(path, reason) for path, reason in status.skipped if not _is_below(path, report.missing_roots)]
    for path, reason in tried[:_SHOWN_SKIPPED]:
        warn("skipped:", skipped_line(path, reason))
    if (more := len(tried) - _SHOWN_SKIPPED) > 0:
        console.print(f"and {more:,} more: `clipalign status {opened.path}` lists them", soft_wrap=True)
    for note in notes:
        warn("note:", printable(in_options(note, {})))


def _show_missing(report: Any) -> list[str]:
    """Prints a line for each folder that is not there, with the reason; the notes that say something else."""
    notes = list(report.notes)
    for root in report.missing_roots:
        beginning = f"{printable(root)}: "
        reasons = [note.removeprefix(beginning) for note in notes if note.startswith(beginning)]
        notes = [note for note in notes if not note.startswith(beginning)]
        reason = f" ({'; '.join(reasons)})" if reasons else ""
        warn("not there:", f"{printable(root)}{reason}; nothing of it was forgotten.")
    return notes


def _is_below(path: str, roots: Sequence[str]) -> bool:
    return any(path.startswith(os.path.join(root, "")) for root in roots)


def _calibrate(opened: Any, is_to_choose: bool, is_to_replace: bool, batch_size: int, workers: int | None) -> None:
    """Measures what scores mean, and chooses a band where none was published or given, or anew where that is asked."""
    first = opened.setting("calibration") is None
    if opened.is_calibration_due or is_to_replace:
        choices = {"choose_band": first and is_to_choose, "replace_band": is_to_replace}
        for line in opened.calibrate(**choices, batch_size=batch_size, num_workers=workers):
            console.print(line, soft_wrap=True)


def _prepare(opened: Any) -> None:
    from hf_clipalign.search.answers.texts import prepare_texts
    from hf_clipalign.search.sidecars.choice import prepare

    prepare_texts(opened)
    words = opened.measure_words() if opened.is_word_null_due else []
    for line in [*words, *prepare(opened)]:
        console.print(line, soft_wrap=True)


def _keep_text_tower(opened: Any) -> None:
    from hf_clipalign.hub import export_text_tower
    from hf_clipalign.search.text_tower import FOLDER

    model, processor = load(opened.description["model"]["name"])
    console.print(f"text tower: {export_text_tower(model, processor, Path(opened.path) / FOLDER)}", soft_wrap=True)


def _listed(paths: Sequence[str]) -> str:
    return ", ".join(repr(printable(path)) for path in paths)
