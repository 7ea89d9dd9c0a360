"""Stanford Cars: MATLAB files of a devkit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import explained_content
from hf_clipalign.benchmarks.formats.listing import Listed, Place, listed_images
from hf_clipalign.data import ImageSource


def read_cars(place: Place) -> dict[str, ImageSource]:
    """Stanford Cars as its devkit has it: `class_names` in one file, `annotations` (`fname`, `class` from 1) per part.

    Args:
        place (`Place`): with the file `classes`, and one for each part.
    """
    names = _class_names(place.file("classes"))
    parts = [role for role in place.layout.files if role != "classes"]
    rows = {part: _annotations(place.file(part)) for part in parts}
    return listed_images(rows, place, {part: place.file(part) for part in parts}, names)


def _class_names(path: Path) -> list[str]:
    names = np.atleast_1d(_variable(path, "class_names")).ravel().tolist()
    if not names or not all(isinstance(name, str) for name in names):
        raise ClipAlignError(f"{path}: class_names is no list of texts: replace the file")
    return names


def _annotations(path: Path) -> list[Listed]:
    table = np.atleast_1d(_variable(path, "annotations")).ravel()
    columns = table.dtype.names or ()
    missing = [name for name in ("fname", "class") if name not in columns]
    if missing:
        hint = "; take cars_test_annos_withlabels.mat, which has classes" if missing == ["class"] else ""
        raise ClipAlignError(f"{path}: annotations have no field {missing[0]!r}{hint}")
    return [_row(path, number, row) for number, row in enumerate(table)]


def _row(path: Path, number: int, row: Any) -> Listed:
    name, label = row["fname"], row["class"]
    whole = isinstance(label, (int, np.integer)) or (isinstance(label, float) and label.is_integer())
    if not isinstance(name, str) or not whole or label < 1:
        found = short((name, label))
        raise ClipAlignError(
            f"{path}: annotation {number} (from 0) has fname and class {found}, not a text and 1 or more"
        )
    return Listed(name, int(label) - 1)


def _variable(path: Path, name: str) -> Any:
    from scipy.io import loadmat

    with explained_content(path):
        content = loadmat(str(path), squeeze_me=True, variable_names=[name])
    if name not in content:
        raise ClipAlignError(f"{path}: holds no variable {name!r}: replace the file")
    return content[name]
