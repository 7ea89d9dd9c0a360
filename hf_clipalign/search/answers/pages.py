"""Pages of thumbnails: one file each, with the thumbnails inside, nothing loaded from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.data_address import data_address
from hf_clipalign._io.files import atomic_file
from hf_clipalign.search.answers.hits import NO_MATCH, Answer

_SIDE = 320


@dataclass(frozen=True)
class Tile:
    """An image of a page.

    Args:
        path (`str`): the file.
        lines (`Sequence[str]`, *optional*): below it.
        is_marked (`bool`, *optional*, defaults to `False`): drawn with a frame.
        also (`Sequence[str]`, *optional*): further files with the same bytes.
    """

    path: str
    lines: Sequence[str] = ()
    is_marked: bool = False
    also: Sequence[str] = ()

    def source(self) -> str:
        """The thumbnail as a data address; empty where the file cannot be read."""
        from hf_clipalign.data.images.thumbnails import jpeg_thumbnail

        try:
            return data_address(jpeg_thumbnail(self.path, _SIDE), "image/jpeg")
        except ClipAlignError:
            return ""


@dataclass(frozen=True)
class TileGroup:
    """Images under one heading.

    Args:
        title (`str`): the heading.
        text (`str`): a line below it.
        tiles (`Sequence[Tile]`): the images.
    """

    title: str
    text: str
    tiles: Sequence[Tile]


def answer_group(answer: Answer) -> TileGroup:
    """The hits of one query as a group of images."""
    tiles = []
    for hit in answer:
        score = f"{hit.score:.3f}" + (
            "" if hit.confidence is None else f" · {answer.measure} {100 * hit.confidence:.0f} %"
        )
        tiles.append(Tile(hit.path, [score], also=hit.also))
    details = f"head: {answer.head}; {answer.method}"
    return TileGroup(answer.query or "Hits", "; ".join(filter(None, [details, answer.note or ""])), tiles)


def write_page(path: str | Path, title: str, groups: Iterable[TileGroup]) -> Path:
    """Writes a self-contained page, readable at the width of a phone.

    Files are named and linked as they lie from the folder of the page, so that a page beside its images can be moved
    and given away with them. Files that share no folder with the page but the root of the disk are not linked. The
    home folder is written as `~`.

    Args:
        path (`str` or `Path`): the `.html` file; written atomically, folders are made.
        title (`str`): the heading.
        groups (`Iterable[TileGroup]`): in order.

    Returns:
        `Path`: the file.

    Raises:
        `ClipAlignError`: the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("hf_clipalign.search.answers", "templates")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    folder = os.path.dirname(os.path.abspath(path))
    environment.filters["shown"] = lambda text: printable(_without_home(text))
    environment.filters["named"] = lambda file: printable(_beside(file, folder) or _without_home(file))
    environment.filters["link"] = lambda file: quote(os.fsencode(_beside(file, folder) or ""))
    template = environment.get_template("images.html.jinja")
    with atomic_file(path) as staging, open(staging, "w", encoding="utf-8") as file:
        file.writelines(template.generate(title=title, groups=groups, nothing=NO_MATCH))
    return Path(path)


def _beside(path: str, folder: str) -> str | None:
    """A path as it leads from a folder; None if both lie in no folder but the root of the disk."""
    path = os.path.abspath(path)
    common = os.path.commonpath([path, folder])
    return None if common == os.path.dirname(common) else os.path.relpath(path, folder)


def _without_home(text: str) -> str:
    """A text with `~` for the home folder."""
    home = os.path.join(os.path.expanduser("~"), "")
    return text.replace(home, f"~{os.sep}") if len(home) > 1 else text
