"""The data that a command reads: images or features, the built-in images among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.names import is_built_in_data, is_built_in_model, is_model_folder, is_stored, nearest_path

_STYLES = ("noto", "twemoji", "fluent")


def check_data(name: str, what: str = "DATA") -> None:
    """Refuses a model in the place of the data; `what` is how the command calls them.

    Raises:
        `ClipAlignError`: the name is that of a built-in model, or of a folder that holds a model.
    """
    if is_built_in_model(name) or is_model_folder(name):
        raise ClipAlignError(f"{name!r} is a model, but {what} comes first: write {what} --model {name}.")


def check_out(out: Path, *read: str | None) -> None:
    """Refuses to write a result into a folder that is read.

    Raises:
        `ClipAlignError`: `out` is one of them.
    """
    for name in filter(None, read):
        if Path(name).is_dir() and Path(name).resolve() == out.resolve():
            raise ClipAlignError(f"--out {str(out)!r} is what is read: give another folder for the result.")


def check_path(name: str) -> None:
    """Refuses a missing file or folder that looks like a misspelt one.

    Raises:
        `ClipAlignError`: with the name that was probably meant.
    """
    if close := nearest_path(name):
        raise ClipAlignError(f"no file or folder {name!r}: did you mean {close!r}?")


def open_data(
    name: str, image_column: str | None = None, label_column: str | None = None, split: str | None = None
) -> Any:
    """The images or the features of that name.

    Args:
        name (`str`): Folder, table, Hub id, folder or URL of features or embeddings, or `mini:emoji`.
        image_column (`str`, *optional*): Column with images.
        label_column (`str`, *optional*): Column with classes.
        split (`str`, *optional*): Split of a data set.

    Returns:
        `FeatureStore`, `EmbeddingStore` or `ImageSource`.

    Raises:
        `ClipAlignError`: nothing can be opened by that name; the nearest one is suggested.
    """
    from hf_clipalign.data import from_dataset, load_mini, open_source
    from hf_clipalign.features import open_store

    check_data(name)
    if is_built_in_data(name):
        return from_dataset(load_mini().emoji_subset(styles=_STYLES, novel=True), label_column=label_column or "name")
    if is_stored(name):
        return open_store(name)
    try:
        return open_source(name, image_column=image_column, label_column=label_column, split=split)
    except ClipAlignError:
        check_path(name)
        raise


def check_labelled(name: str, data: Any, with_names: bool = False) -> None:
    """Refuses data without labels before anything is computed from them.

    Raises:
        `ClipAlignError`: no labels, or no class names where they are needed.
    """
    if data.labels is None or (with_names and data.class_names is None):
        missing = "labels" if data.labels is None else "class names"
        raise ClipAlignError(
            f"{name!r} has no {missing} to score against: put each class into a sub-folder of its own, or name the "
            "column of a table with --label-column."
        )
