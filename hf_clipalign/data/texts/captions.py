"""Captions grouped by the image that they describe, for text-text retrieval."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import quoted, short, short_reason
from hf_clipalign._checks.sequences import as_list
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.source import ImageSource, check_lengths, digest
from hf_clipalign.data.labels.columns import class_labels, first_column, read_texts
from hf_clipalign.data.texts.delimited import csv_rows

_IMAGE_COLUMNS = ("image", "image_name", "image_id", "file_name", "filename", "image_path", "filepath", "path", "id")
_TEXT_COLUMNS = ("caption", "captions", "comment", "text", "texts", "sentence", "sentences", "raw", "sentences_raw")

_Record = tuple[str, "str | None", Any]
"""Where it stands, for errors; the image's id, None for one image per row; its text or texts."""


@dataclass
class Captions:
    """Texts and the image that each belongs to.

    Args:
        texts (`list[str]`): all captions, in the order of the file; `M` of them.
        labels (`numpy.ndarray` of int64 `[M]`): position in `image_ids` of the image that each text describes.
        image_ids (`list[str]`): names of the images, in the order of their first caption.

    Example:
        ```python
        >>> from hf_clipalign.data import Captions
        >>> len(Captions(["a cat", "a red cat"], labels=[0, 0], image_ids=["cat.png"]))
        2
        ```
    """

    texts: list[str]
    labels: np.ndarray
    image_ids: list[str]

    def __post_init__(self) -> None:
        self.texts = as_texts(self.texts, "captions")
        self.image_ids = as_texts(self.image_ids, "image_ids of captions")
        self.labels, _ = class_labels(self.labels, self.image_ids, "labels of captions")
        check_lengths("captions", "texts", self.texts, labels=self.labels)

    def __len__(self) -> int:
        return len(self.texts)


def load_captions(
    path: str | os.PathLike[str], image_column: str | None = None, text_column: str | None = None
) -> Captions:
    """Reads captions: texts of one image share a label, so that text-text retrieval can be scored.

    Understood are CSV and TSV with one caption per row (also with "|" between the columns, and Flickr30k's `.token`
    lines `image.jpg#0<tab>caption`); COCO JSON (`annotations`) and Karpathy's split JSON (`images` with
    `sentences`); JSON lines and parquet with a text or a list of texts per row. Rows of one image are joined.

    Args:
        path (`str` or `os.PathLike`): the file.
        image_column (`str`, *optional*):
            column that names the image; by default "image", "file_name" or the like. JSON lines and parquet without
            one count each row as an image.
        text_column (`str`, *optional*):
            column with the caption or captions; by default "caption", "text" or the like.

    Returns:
        `Captions`: texts, labels and image names.

    Raises:
        `ClipAlignError`: if the file is missing or in no known form, a column is missing, or a row has no caption.

    Example:
        ```python
        >>> from hf_clipalign.data import load_captions
        >>> captions = load_captions("captions.csv")
        >>> captions.texts, captions.labels
        (['a cat', 'a red cat', 'a dog'], array([0, 0, 1]))
        ```
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ClipAlignError(f"{file}: {'is a folder, not a file' if file.is_dir() else 'no such file'} of captions")
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise ClipAlignError(f"{file}: unknown ending; captions are read from {', '.join(_READERS)}")
    try:
        return _group(file, reader(file, image_column, text_column))
    except ClipAlignError:
        raise
    except Exception as error:
        raise ClipAlignError(f"{file}: the captions cannot be read ({short_reason(error)})") from error


def with_captions(source: ImageSource, captions: Captions | Sequence[str | Sequence[str]]) -> ImageSource:
    """The images of a source with captions, to train on pairs.

    Args:
        source (`ImageSource`): the images.
        captions (`Captions` or sequence):
            captions by the image's name, which is its id in the source or its file name (captions of other images
            are not looked at); or one entry per image, a caption or a list of them.

    Returns:
        `ImageSource`: the same images in the same order.

    Raises:
        `ClipAlignError`: if the numbers differ, or an image has no caption; it is named.

    Example:
        ```python
        >>> from hf_clipalign.data import load_captions, open_source, with_captions
        >>> pairs = with_captions(open_source("pairs"), load_captions("captions.csv"))
        >>> pairs.texts
        [['a cat', 'a red cat'], ['a dog']]
        ```
    """
    if isinstance(captions, Captions):
        texts = _by_name(source, captions)
    else:
        texts = read_texts(as_list(captions, "captions"), "captions", source.name)
        check_lengths(source.name, "images", source, captions=texts)
    return ImageSource(
        source.items,
        ids=source.ids,
        labels=source.labels,
        class_names=source.class_names,
        texts=texts,
        name=source.name,
        fingerprint=partial(_captioned_fingerprint, source, texts),
    )


def _by_name(source: ImageSource, captions: Captions) -> list[list[str]]:
    texts: dict[str, list[str]] = {name: [] for name in captions.image_ids}
    for text, label in zip(captions.texts, captions.labels.tolist(), strict=True):
        texts[captions.image_ids[label]].append(text)
    names = [name if name in texts else os.path.basename(name) for name in source.ids]
    missing = [source.ids[row] for row, name in enumerate(names) if name not in texts]
    if missing:
        raise ClipAlignError(
            f"{source.name}: {len(missing)} of {len(source)} images have no caption, the first is "
            f"{short(missing[0])}; "
            "captions are matched by id or file name"
        )
    return [texts[name] for name in names]


def _captioned_fingerprint(source: ImageSource, texts: list[list[str]]) -> str:
    return digest([source.fingerprint()], [text for group in texts for text in (str(len(group)), *group)])


def _group(file: Path, records: Iterable[_Record]) -> Captions:
    texts: list[str] = []
    labels: list[int] = []
    index: dict[str, int] = {}
    for place, image_id, value in records:
        group = [value] if isinstance(value, str) else value
        if image_id == "":
            raise ClipAlignError(f"{file}: {place} names no image; fill or delete it")
        if not group or not isinstance(group, list) or not all(isinstance(t, str) and t.strip() for t in group):
            raise ClipAlignError(f"{file}: {place} has an empty caption, or one that is not text; fill or delete it")
        label = index.setdefault(place if image_id is None else image_id, len(index))
        texts += [text.strip() for text in group]
        labels += [label] * len(group)
    if not texts:
        raise ClipAlignError(f"{file}: the file holds no captions")
    return Captions(texts, np.array(labels, dtype=np.int64), list(index))


def _read_delimited(file: Path, image_column: str | None, text_column: str | None) -> Iterator[_Record]:
    """One caption per row. Quotes count only between commas: in other files they belong to the caption."""
    with open(file, encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
        delimiter = next((d for d in ("\t", "|", ",") if d in header), ",")
        stream.seek(0)
        quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
        rows = csv_rows(stream, str(file), delimiter=delimiter, quoting=quoting)
        if delimiter == "\t" and re.match(r"[^\t]+#\d+\t", header):
            yield from ((f"line {line}", r[0].rsplit("#", 1)[0], "\t".join(r[1:])) for line, r in rows if r)
            return
        columns = [name.strip() for name in next(rows, (1, []))[1]]
        image = columns.index(_pick(file, columns, image_column, _IMAGE_COLUMNS, "image_column"))
        text = columns.index(_pick(file, columns, text_column, _TEXT_COLUMNS, "text_column"))
        for line, row in rows:
            if row:
                if any(cell.strip() for cell in row[len(columns) :]):
                    advice = "put it into quotation marks" if delimiter == "," else "use another separator"
                    raise ClipAlignError(
                        f"{file}: line {line} has {len(row)} cells under {len(columns)} headings; if a caption holds "
                        f"{delimiter!r}, {advice}"
                    )
                cells = [*row, *[""] * len(columns)]
                yield f"line {line}", cells[image].strip(), cells[text]


def _read_json(file: Path, image_column: str | None, text_column: str | None) -> Iterator[_Record]:
    """COCO annotations, Karpathy's splits, or a plain list of objects."""
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    if isinstance(content, list):
        yield from _read_rows(file, content, image_column, text_column)
    elif isinstance(content, dict) and "annotations" in content:
        names = {image["id"]: image.get("file_name") for image in content.get("images", [])}
        for row, annotation in enumerate(content["annotations"]):
            if "image_id" not in annotation or "caption" not in annotation:
                raise ClipAlignError(
                    f"{file}: annotation {row} (from 0) lacks image_id or caption; is it a captions file?"
                )
            image_id = annotation["image_id"]
            yield f"annotation {row} (from 0)", names.get(image_id) or str(image_id), annotation["caption"]
    elif isinstance(content, dict) and "images" in content:
        for row, image in enumerate(content["images"]):
            texts = [sentence["raw"] for sentence in image["sentences"]]
            yield f"image {row} (from 0)", image["filename"], texts
    else:
        raise ClipAlignError(f"{file}: neither COCO captions ('annotations') nor a list of objects")


def _read_json_lines(file: Path, image_column: str | None, text_column: str | None) -> Iterator[_Record]:
    with open(file, encoding="utf-8-sig") as stream:
        rows = []
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ClipAlignError(f"{file}: line {number} is not JSON ({error})") from error
    return _read_rows(file, rows, image_column, text_column)


def _read_parquet(file: Path, image_column: str | None, text_column: str | None) -> Iterator[_Record]:
    import pyarrow.parquet as pq

    columns = pq.read_schema(file).names
    text = _pick(file, columns, text_column, _TEXT_COLUMNS, "text_column")
    image = image_column or first_column(columns, _IMAGE_COLUMNS)
    if image is not None:
        _pick(file, columns, image, (), "image_column")
    table = pq.read_table(file, columns=[text] if image is None else [text, image])
    return _read_rows(file, table.to_pylist(), image, text)


def _read_rows(
    file: Path, rows: list[dict[str, Any]], image_column: str | None, text_column: str | None
) -> Iterator[_Record]:
    if rows and not all(isinstance(row, dict) for row in rows):
        raise ClipAlignError(f"{file}: rows must be JSON objects with a caption column")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        return
    text = _pick(file, columns, text_column, _TEXT_COLUMNS, "text_column")
    image = image_column or first_column(columns, _IMAGE_COLUMNS)
    if image is not None:
        _pick(file, columns, image, (), "image_column")
    for number, row in enumerate(rows):
        yield f"row {number} (from 0)", None if image is None else _image_id(row.get(image)), row.get(text)


def _image_id(value: Any) -> str:
    """The path, where the cell holds the image itself as `{"bytes", "path"}`."""
    value = value.get("path") if isinstance(value, dict) else value
    return "" if value is None else str(value)


def _pick(file: Path, columns: list[str], column: str | None, usual: tuple[str, ...], argument: str) -> str:
    chosen = column or first_column(columns, usual)
    if columns.count(str(chosen)) > 1:
        raise ClipAlignError(f"{file}: several columns are called {short(chosen)}; rename them")
    if chosen in columns:
        return str(chosen)
    problem = f"no column {short(column)}" if column else f"pass {argument}"
    raise ClipAlignError(f"{file}: {problem}; the columns are {quoted(columns)}")


_READERS: dict[str, Callable[[Path, str | None, str | None], Iterator[_Record]]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".txt": _read_delimited,
    ".token": _read_delimited,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}
