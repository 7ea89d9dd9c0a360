"""The label files of MIMIC-CXR-JPG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_clipalign._checks.quoting import short
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.labels.finding_names import CHEXPERT_COMPETITION, checked_findings
from hf_clipalign.data.labels.findings import FindingLabels
from hf_clipalign.data.labels.label_files import (
    checked_path,
    label_values,
    read_label_file,
    require_columns,
    subgroup_values,
)

if TYPE_CHECKING:
    import pandas as pd

_SUBGROUPS = {"ViewPosition": "view", "sex": "sex", "gender": "sex", "age": "age", "anchor_age": "age"}


def read_mimic_cxr(
    labels: str | os.PathLike[str],
    images: str | os.PathLike[str],
    findings: Sequence[str] = CHEXPERT_COMPETITION,
    split: str | None = None,
    views: Sequence[str] | None = None,
) -> FindingLabels:
    """Reads MIMIC-CXR-JPG's label file and its list of images as they come.

    Args:
        labels (`str` or `os.PathLike`): `mimic-cxr-2.0.0-chexpert.csv` or `…-negbio.csv`: `subject_id`, `study_id`
            and one column for each finding.
        images (`str` or `os.PathLike`): `mimic-cxr-2.0.0-split.csv` or `…-metadata.csv`: `dicom_id`, `study_id`,
            `subject_id`.
        findings (`Sequence[str]`): columns to take; by default the five of CheXpert's competition.
        split (`str`, *optional*): `"train"`, `"validate"` or `"test"`; needs the column `split` in `images`.
        views (`Sequence[str]`, *optional*): `["PA", "AP"]` for example; needs the column `ViewPosition`.

    Returns:
        `FindingLabels`: one row for each image of a labelled study; ids are the data set's own paths,
        `files/p10/p10000032/s50414267/<dicom_id>.jpg`; the patient is the subject. The
        columns `ViewPosition`, `sex` and `age` of `images`, where they are there, become subgroups.

    Raises:
        `ClipAlignError`: a file or a column is missing, nothing is left, an identifier is empty, no whole number or
            leaves its folder, a study has two rows of labels that differ, or two subjects.

    Example:
        ```python
        >>> from hf_clipalign.data import read_mimic_cxr
        >>> labels = read_mimic_cxr("mimic-chexpert.csv", "mimic-split.csv", findings=["Edema"], split="train")
        >>> labels.ids, labels.patients
        (['files/p10/p10000032/s50414267/02aa804e.jpg'], ['p10000032'])
        ```
    """
    findings = checked_findings(findings)
    table, name = read_label_file(labels)
    listing, listing_name = read_label_file(images)
    require_columns(table, ["subject_id", "study_id", *findings], name)
    wanted = [*(["split"] if split else []), *(["ViewPosition"] if views else [])]
    require_columns(listing, ["dicom_id", "study_id", "subject_id", *wanted], listing_name)
    _check_identifiers(table, name)
    label_values(table, findings, name)  # here, where rows have the numbers of the file
    _check_identifiers(listing, listing_name)
    if split is not None:
        listing = listing[listing["split"] == split]
    if views is not None:
        listing = listing[listing["ViewPosition"].isin(as_texts(views, "views"))]
    studies = table[["study_id", "subject_id", *findings]].drop_duplicates()
    if len(twice := studies["study_id"][studies["study_id"].duplicated()]):
        raise ClipAlignError(f"{name}: the study {short(twice.iloc[0])} has two rows that differ: keep the right one")
    kept = ["dicom_id", "study_id", "subject_id", *(column for column in _SUBGROUPS if column in listing.columns)]
    joined = listing[kept].merge(studies, on="study_id", suffixes=("", "_labels"))
    if len(others := joined[joined["subject_id"] != joined["subject_id_labels"]]):
        study, here, there = others.iloc[0][["study_id", "subject_id", "subject_id_labels"]]
        raise ClipAlignError(
            f"the study {short(study)} is of the subject {short(here)} in {listing_name} and of "
            f"{short(there)} in {name}"
        )
    if joined.empty:
        raise ClipAlignError(
            f"{listing_name}: no image of a study in {name} is left with split={short(split)}, views={views}"
        )
    ids = [_mimic_path(*row) for row in joined[["dicom_id", "study_id", "subject_id"]].itertuples(index=False)]
    return FindingLabels(
        ids=[checked_path(text, row, listing_name) for row, text in enumerate(ids)],
        findings=findings,
        values=label_values(joined, findings, name),
        patients=[f"p{subject}" for subject in joined["subject_id"]],
        name=name,
        subgroups=subgroup_values(joined, _SUBGROUPS),
    )


def _check_identifiers(frame: pd.DataFrame, name: str) -> None:
    """Refuses rows without an identifier, and numbers of studies and subjects such as 50414267.0."""
    for column in ("subject_id", "study_id", "dicom_id"):
        if column in frame.columns:
            cells, pattern = frame[column].fillna(""), r".*\S.*" if column == "dicom_id" else "[0-9]+"
            bad = np.flatnonzero(~cells.str.fullmatch(pattern).to_numpy(dtype=bool))
            if len(bad):
                raise ClipAlignError(
                    f"{name}: row {bad[0]} (from 0): {column} is {short(frame[column].iloc[bad[0]])}: give "
                    f"{'the name of an image' if column == 'dicom_id' else 'a whole number, written 50414267'}"
                )


def _mimic_path(dicom_id: Any, study_id: Any, subject_id: Any) -> str:
    subject = f"p{subject_id}"
    return f"files/{subject[:3]}/{subject}/s{study_id}/{dicom_id}.jpg"
