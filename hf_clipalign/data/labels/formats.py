"""Label files in their published formats, recognised by their columns, and their images below a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hf_clipalign._checks.quoting import quoted, short
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.labels.chexpert import read_chexpert
from hf_clipalign.data.labels.finding_names import CHEXPERT_COMPETITION
from hf_clipalign.data.labels.findings import FindingLabels
from hf_clipalign.data.labels.label_files import read_label_file
from hf_clipalign.data.labels.mimic_cxr import read_mimic_cxr

FORMATS = ("chexpert", "mimic")
_SPLITS = ("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")
_MOST_FOLDERS = 4
_TRIED = 50


def label_format(path: str | os.PathLike[str]) -> str:
    """`"chexpert"` or `"mimic"`, by the columns of a label file.

    Args:
        path (`str` or `os.PathLike`): the file.

    Raises:
        `ClipAlignError`: it cannot be read, or is neither.

    Example:
        ```python
        >>> from hf_clipalign.data.labels.formats import label_format
        >>> label_format("train.csv")
        'chexpert'
        ```
    """
    frame, name = read_label_file(path)
    for column, kind in (("Path", "chexpert"), ("study_id", "mimic")):
        if column in frame.columns:
            return kind
    raise ClipAlignError(
        f"{name}: is no label file of CheXpert (column 'Path') or MIMIC-CXR (column 'study_id'); the columns are "
        f"{quoted(frame.columns)}"
    )


def read_findings(
    path: str | os.PathLike[str],
    kind: str | None = None,
    findings: Sequence[str] = CHEXPERT_COMPETITION,
    splits: str | os.PathLike[str] | None = None,
    split: str | None = None,
) -> FindingLabels:
    """Labels of CheXpert or MIMIC-CXR.

    Args:
        path (`str` or `os.PathLike`): the label file.
        kind (`str`, *optional*): `"chexpert"` or `"mimic"`. Default: by the columns.
        findings (`Sequence[str]`): columns to take; by default the five of CheXpert's competition.
        splits (`str` or `os.PathLike`, *optional*): MIMIC-CXR's list of images, see `read_mimic_cxr`. Default:
            `mimic-cxr-2.0.0-split.csv` beside the label file, or that file itself where it has a column `dicom_id`.
        split (`str`, *optional*): MIMIC-CXR's `"train"`, `"validate"` or `"test"`. Default: all.

    Raises:
        `ClipAlignError`: an unknown format, no list of images, or as the readers of the two formats.

    Example:
        ```python
        >>> from hf_clipalign.data.labels.formats import read_findings
        >>> len(read_findings("train.csv", findings=["Cardiomegaly", "Edema"]))
        3
        ```
    """
    kind = kind or label_format(path)
    if kind not in FORMATS:
        raise ClipAlignError(f"no format {short(kind)}: choose one of {', '.join(FORMATS)}.")
    if kind == "chexpert":
        return read_chexpert(path, findings)
    images = _list_of_images(Path(path), splits)
    has_splits = "split" in read_label_file(images)[0].columns
    return read_mimic_cxr(path, images, findings, split=split if has_splits else None)


def below(labels: FindingLabels, root: str | os.PathLike[str]) -> FindingLabels:
    """The labels with ids that are paths below `root`: leading folders that are not there are left out.

    So `root` may be the folder of the data set, or the one that it lies in.

    Args:
        labels (`FindingLabels`): the labels.
        root (`str` or `os.PathLike`): the folder of the images.

    Raises:
        `ClipAlignError`: no image of the labels is there.

    Example:
        ```python
        >>> from hf_clipalign.data.labels.formats import below
        >>> labels = below(FindingLabels(["CheXpert-v1.0-small/cat/1.png"], ["Edema"], [[1]]), "photos")
        ```
    """
    folder = Path(root).expanduser()
    for levels in range(_MOST_FOLDERS + 1):
        ids = [name.split("/", levels)[-1] for name in labels.ids]
        if len(set(ids)) == len(ids) and any((folder / name).is_file() for name in ids[:_TRIED]):
            return replace(labels, ids=ids)
    raise ClipAlignError(
        f"no image of {labels.name} is below {str(folder)!r}: the labels name images like {short(labels.ids[0])}; "
        "give the folder that they start from."
    )


def _list_of_images(labels: Path, given: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    if given is not None:
        return given
    if "dicom_id" in read_label_file(labels)[0].columns:
        return labels
    for name in _SPLITS:
        if (labels.parent / name).is_file():
            return labels.parent / name
    raise ClipAlignError(
        f"{str(labels)!r} has labels of studies, not of images: give MIMIC-CXR's list of images too, "
        f"splits={_SPLITS[0]}"
    )
