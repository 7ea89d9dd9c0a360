"""Data sets of the datasets library."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_clipalign._checks.quoting import quoted
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.source import ImageSource, digest
from hf_clipalign.data.labels.columns import read_labels, read_texts, require_column

if TYPE_CHECKING:
    import datasets


def from_dataset(
    dataset: datasets.Dataset,
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
) -> ImageSource:
    """Opens a `datasets.Dataset`. Images are decoded one by one with `read_image`, not by the datasets library.

    Args:
        dataset (`datasets.Dataset`): one split, not streamed.
        image_column (`str`, *optional*):
            column with images (`Image`, or paths or bytes); by default the only `Image` column, or the one called
            "image".
        label_column (`str`, *optional*):
            column of class labels, integers or strings; by default the only `ClassLabel` column, or the one called
            "label" or "labels"; no labels if there is none.
        text_column (`str`, *optional*):
            column of captions, a string or a list of strings per row.

    Returns:
        `ImageSource`: ids are row numbers.

    Raises:
        `ClipAlignError`: if a column is missing or ambiguous, a label is missing, or the data set is empty, a dict
            of splits or a stream.

    Example:
        ```python
        >>> from hf_clipalign.data import from_dataset, load_mini
        >>> from_dataset(load_mini().emoji, text_column="name").texts[0]
        ['grinning face']
        ```
    """
    import datasets

    _require_map_style(dataset)
    name = f"data set {dataset.info.dataset_name or ''}".strip()
    image_column = _pick(dataset, image_column, datasets.Image, ("image",), name, required=True)
    guessed = label_column is None
    label_column = _pick(dataset, label_column, datasets.ClassLabel, ("label", "labels"), name, required=False)
    labels, class_names = None, None
    if label_column is not None:
        labels, class_names = _dataset_labels(dataset, label_column, name, guessed)
    texts = None
    if text_column is not None:
        require_column(text_column, dataset.column_names, name)
        texts = read_texts(_values(dataset, text_column), text_column, name)
    return ImageSource(
        _DatasetImages(dataset, str(image_column)),
        ids=[str(row) for row in range(len(dataset))],
        labels=labels,
        class_names=class_names,
        texts=texts,
        name=name,
        fingerprint=partial(digest, [dataset._fingerprint, str(image_column), str(label_column), str(text_column)]),
    )


class _DatasetImages:
    """The undecoded images of a `datasets.Dataset`."""

    def __init__(self, dataset: datasets.Dataset, column: str) -> None:
        import datasets

        dataset = dataset.with_format(None).select_columns([column])
        if isinstance(dataset.features[column], datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        self.dataset = dataset
        self.column = column

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(index)][self.column]


def _require_map_style(dataset: Any) -> None:
    import datasets

    if isinstance(dataset, datasets.DatasetDict):
        raise ClipAlignError(f"a dict of splits was passed; choose one of {quoted(dataset)}")
    if isinstance(dataset, (datasets.IterableDataset, datasets.IterableDatasetDict)):
        raise ClipAlignError("a streamed data set was passed; load it with streaming=False, or use open_stream")
    if not isinstance(dataset, datasets.Dataset):
        raise ClipAlignError(
            f"cannot open a {type(dataset).__name__}; pass a folder, a CSV, TSV or parquet file, a Hub id, "
            "a datasets.Dataset or a pandas frame"
        )
    if len(dataset) == 0:
        raise ClipAlignError(f"data set {dataset.info.dataset_name or ''} has no rows".replace("  ", " "))


def _pick(
    dataset: datasets.Dataset, column: str | None, kind: type, usual: tuple[str, ...], name: str, required: bool
) -> str | None:
    """The named column, or the only one of that kind, or the one of that kind with the usual name."""
    if column is not None:
        require_column(column, dataset.column_names, name)
        return column
    found = [c for c, feature in dataset.features.items() if isinstance(feature, kind)]
    best = found if len(found) == 1 else [c for c in found if c in usual][:1]
    if best:
        return best[0]
    argument = "image_column" if required else "label_column"
    if found:
        raise ClipAlignError(f"{name}: several {kind.__name__} columns; pass {argument}, one of {quoted(found)}")
    if required:
        present = quoted(dataset.column_names)
        raise ClipAlignError(f"{name}: no {kind.__name__} column; pass {argument}, one of {present}")
    return None


def _values(dataset: datasets.Dataset, column: str) -> list[Any]:
    return list(dataset.with_format(None).select_columns([column])[:][column])


def _dataset_labels(
    dataset: datasets.Dataset, column: str, name: str, guessed: bool
) -> tuple[np.ndarray | None, list[str] | None]:
    """`ClassLabel` columns keep their numbering; -1 is how data sets on the Hub say "unknown"."""
    values, names = _values(dataset, column), getattr(dataset.features[column], "names", None)
    if names is None:
        return read_labels(values, column, name)
    if guessed and all(value == -1 for value in values):
        return None, None
    labels, _ = read_labels([None if value == -1 else value for value in values], column, name)
    return labels, list(names)
