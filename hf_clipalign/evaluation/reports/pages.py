"""A report as one HTML file: text, tables, figures and rows of images, nothing loaded from elsewhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from hf_clipalign._io.data_address import data_address
from hf_clipalign._io.files import atomic_file
from hf_clipalign._io.masking import mask_secrets
from hf_clipalign._tables import NumberTable

_THUMBNAIL = 64


@dataclass(frozen=True)
class ReportTable:
    """A table: headings, rows of text, a line below.

    Args:
        columns (`Sequence[str]`): headings.
        rows (`Sequence[Sequence[str]]`): the cells as text.
        caption (`str`, *optional*): the line below.
        n_texts (`int`, *optional*, defaults to 1): how many of the first columns say what a row is about: they are
            aligned to the left, and repeated where a terminal is too narrow for all columns.

    Example:
        ```python
        >>> table = ReportTable(["head", "mAP"], [["raw", "41.6"]], "percent")
        >>> section = Section("Retrieval", tables=[table])
        ```
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    n_texts: int = 1

    def to_rich(self, title: str = "") -> NumberTable:
        """The table for a terminal."""
        return NumberTable(self.columns, self.rows, title, self.caption, texts=range(self.n_texts))


@dataclass(frozen=True)
class Match:
    """One image of a row of matches: the image, its name, and whether it is relevant (None for the query).

    Args:
        image (`Any`): what `read_image` takes.
        name (`str`): shown below the image.
        relevant (`bool`, *optional*): None for the query.

    Example:
        ```python
        >>> Match(images.read(0), images.ids[0], relevant=True).relevant
        True
        ```
    """

    image: Any
    name: str
    relevant: bool | None = None


@dataclass(frozen=True)
class MatchRow:
    """A query and what one head finds for it, best first.

    Args:
        head (`str`): name of the head.
        query (`Match`): what is searched for.
        matches (`Sequence[Match]`): what was found.

    Example:
        ```python
        >>> row = MatchRow("raw", Match(images.read(0), "query"), [Match(images.read(1), "found", True)])
        >>> section = Section("What is found", match_rows=[row])
        ```
    """

    head: str
    query: Match
    matches: Sequence[Match]


@dataclass(frozen=True)
class ImageRow:
    """A group of images with a title and a line about it; `relevant` None draws no frame.

    Args:
        title (`str`), text (`str`): shown above the images.
        images (`Sequence[Match]`): the group.

    Example:
        ```python
        >>> row = ImageRow("cats", "whiskers, fur", [Match(images.read(0), images.ids[0])])
        >>> section = Section("Classes", image_rows=[row])
        ```
    """

    title: str
    text: str
    images: Sequence[Match]


@dataclass
class Section:
    """Part of a report; every field is optional and shown in this order.

    Args:
        title (`str`): heading.
        text (`Sequence[str]`, *optional*): paragraphs.
        tables (`Sequence[ReportTable]`, *optional*): below the text.
        figures (`Sequence[tuple[str, Figure]]`, *optional*): captions and plots.
        match_rows (`Sequence[MatchRow]`, *optional*), image_rows (`Sequence[ImageRow]`, *optional*): images.

    Example:
        ```python
        >>> write_report("index.html", "A report", [Section("Results", text=["Nothing was found."])]).name
        'index.html'
        ```
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[ReportTable] = ()
    figures: Sequence[tuple[str, Any]] = ()
    match_rows: Sequence[MatchRow] = field(default_factory=list)
    image_rows: Sequence[ImageRow] = field(default_factory=list)


def write_report(path: str | Path, title: str, sections: Sequence[Section], lead: str = "") -> Path:
    """Writes a self-contained page.

    Args:
        path (`str` or `Path`): the `.html` file; written atomically, folders are made.
        title (`str`): heading of the page.
        sections (`Sequence[Section]`): in order; figures are `(caption, matplotlib figure)`, images are PIL images.
        lead (`str`): a paragraph under the heading.

    Returns:
        `Path`: the file.

    Raises:
        `ClipAlignError`: the file cannot be written.

    Example:
        ```python
        >>> table = ReportTable(["head", "mAP"], [["raw", "41.6"]], "percent")
        >>> write_report("report/index.html", "A report", [Section("Retrieval", tables=[table])]).name
        'index.html'
        ```
    """
    environment = Environment(
        loader=PackageLoader("hf_clipalign.evaluation.reports", "templates"),
        autoescape=True,
        trim_blocks=True,
        finalize=_without_secrets,
    )
    environment.filters["figure"] = _figure_source
    environment.filters["thumbnail"] = _thumbnail_source
    page = environment.get_template("report.html.jinja").render(title=title, lead=lead, sections=sections)
    with atomic_file(path) as staging:
        staging.write_text(page, encoding="utf-8")
    return Path(path)


def _without_secrets(value: Any) -> Any:
    """What the page prints; images inside it are not text."""
    is_text = isinstance(value, str) and not value.startswith("data:")
    return type(value)(mask_secrets(value)) if is_text else value


def _figure_source(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return data_address(buffer.getvalue(), "image/png")


def _thumbnail_source(image: Any) -> str:
    thumbnail = image.copy()
    thumbnail.thumbnail((_THUMBNAIL * 2, _THUMBNAIL * 2))
    buffer = io.BytesIO()
    thumbnail.save(buffer, format="PNG")
    return data_address(buffer.getvalue(), "image/png")
