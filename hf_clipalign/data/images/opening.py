"""Where images come from: folders, data sets and tables behind one small picklable class."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_clipalign._checks.quoting import quoted, short, short_reason
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.containers.parquet_images import is_parquet_folder
from hf_clipalign.data.images.containers.tars import image_tars, is_tar_folder
from hf_clipalign.data.images.file_kinds import KNOWN_EXTENSIONS
from hf_clipalign.data.images.folders import image_folder
from hf_clipalign.data.images.hf_datasets import from_dataset
from hf_clipalign.data.images.source import ImageSource
from hf_clipalign.data.images.tables import TABLE_EXTENSIONS, from_table

if TYPE_CHECKING:
    import datasets

__all__ = ["ImageSource", "from_dataset", "from_table", "image_folder", "image_tars", "open_source"]


def open_source(
    source: Any,
    *,
    split: str | None = None,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    root: str | os.PathLike[str] | None = None,
    recursive: bool = True,
) -> ImageSource:
    """Opens whatever holds images.

    Args:
        source (path, Hub id, `datasets.Dataset`, `datasets.DatasetDict`, `pandas.DataFrame` or `ImageSource`):
            A folder of images, a folder of tar files (WebDataset, img2dataset) or of Parquet files, a folder written
            by `save_to_disk`, a CSV, TSV, parquet or tar file, an object, or, for a string that is no path, the id of
            a data set on the Hub.
        split (`str`, *optional*): split of a data set, such as `"test"` or `"train[:10%]"`. Not needed for one split.
        config_name (`str`, *optional*): configuration of a Hub data set.
        image_column (`str`, *optional*): see `from_dataset`, `from_table` and `image_tars`.
        label_column (`str`, *optional*): as above.
        text_column (`str`, *optional*): as above.
        root (`str` or `os.PathLike`, *optional*): folder of the images that a table lists.
        recursive (`bool`, *optional*, defaults to `True`): whether to look into sub-folders of a folder of images.

    Returns:
        `ImageSource`: the images.

    Raises:
        `ClipAlignError`: if nothing can be opened by that name, or as the single openers say.

    Example:
        ```python
        >>> from hf_clipalign.data import open_source
        >>> open_source("photos")
        ImageSource('photos', 12 images, 3 classes)
        >>> open_source("table.csv", label_column="kind")
        ImageSource('table.csv', 3 images, 2 classes)
        ```
    """
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column, "text_column": text_column}
    if isinstance(source, ImageSource):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if path.is_dir() and not _is_saved_dataset(path):
            return _open_folder(path, recursive, root, columns)
        if path.suffix.lower() == ".tar" and path.is_file():
            return image_tars(path, **columns)
        if path.is_file():
            return from_table(path, root=root, **columns)
        source = _load_from_disk(path) if path.is_dir() else _load_from_hub(source, config_name, split)

    import datasets
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return from_table(source, root=root, **columns)
    if isinstance(source, datasets.DatasetDict):
        source = _take_split(source, split)
    return from_dataset(source, **columns)


def _open_folder(
    path: Path, recursive: bool, root: str | os.PathLike[str] | None, columns: dict[str, Any]
) -> ImageSource:
    """A folder of tars or of Parquet files, where it holds no images of its own; else a folder of images."""
    if os.access(path, os.R_OK | os.X_OK):  # else it is for image_folder to say what is wrong
        if is_tar_folder(path):
            return image_tars(path, **columns)
        if is_parquet_folder(path):
            return from_table(path, root=root, **columns)
    return image_folder(path, recursive=recursive)


def _is_saved_dataset(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or all(
        (path / f).is_file() for f in ("dataset_info.json", "state.json")
    )


def _load_from_disk(path: Path) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:
        raise ClipAlignError(
            f"{path}: looks written by save_to_disk, but does not load ({short_reason(error)})"
        ) from error


def _load_from_hub(source: str | os.PathLike[str], config_name: str | None, split: str | None) -> Any:
    import datasets

    is_id = isinstance(source, str) and re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", source)
    if not is_id or str(source).lower().endswith(KNOWN_EXTENSIONS + TABLE_EXTENSIONS):
        raise ClipAlignError(f"{source}: no such file or folder, and no id of a data set on the Hub (owner/name)")
    try:
        return datasets.load_dataset(source, config_name, split=split)
    except Exception as error:
        raise ClipAlignError(
            f"{source}: no such file or folder, and not loadable from the Hub ({type(error).__name__}: "
            f"{short_reason(error)}); check the name, split and config_name, and download it once while online"
        ) from error


def _take_split(splits: datasets.DatasetDict, split: str | None) -> datasets.Dataset:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None or split not in splits:
        asked = "several splits" if split is None else f"no split {short(split)}"
        raise ClipAlignError(f"{asked}; pass split, one of {quoted(splits)}")
    return splits[split]
