"""The label files of CheXpert."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from hf_clipalign._checks.quoting import short
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

_SUBGROUPS = {"Frontal/Lateral": "view", "Sex": "sex", "Age": "age"}
_PATIENT = re.compile(r"(?:^|/)(patient\d+)(?:/|$)")


def read_chexpert(
    path: str | os.PathLike[str],
    findings: Sequence[str] = CHEXPERT_COMPETITION,
    frontal_only: bool = False,
) -> FindingLabels:
    """Reads CheXpert's `train.csv` or `valid.csv` as it comes.

    Args:
        path (`str` or `os.PathLike`): the file; a column `Path` and one for each finding: 1, 0, −1 or empty.
        findings (`Sequence[str]`): columns to take; by default the five of the competition.
        frontal_only (`bool`, *optional*, defaults to `False`): leave lateral images out.

    Returns:
        `FindingLabels`: ids are the paths, with `/` also where the file has backslashes; the patient is the part
            `patient00001` of the path. Where no path has one, patients are not known. The columns `Frontal/Lateral`,
            `Sex` and `Age`, where they are there, become subgroups.

    Raises:
        `ClipAlignError`: the file or a column is missing, a path leaves its folder, a value is no label, some paths
            have a patient and others have none.

    Example:
        ```python
        >>> from hf_clipalign.data import read_chexpert
        >>> labels = read_chexpert("train.csv", findings=["Cardiomegaly", "Edema"], frontal_only=True)
        >>> labels.patients, labels.values
        (['patient00001', 'patient00002'], array([[nan, nan],
               [-1.,  1.]]))
        ```
    """
    frame, name = read_label_file(path)
    findings = checked_findings(findings)
    require_columns(frame, ["Path", *findings, *(["Frontal/Lateral"] if frontal_only else [])], name)
    if frontal_only:
        frame = frame[frame["Frontal/Lateral"] == "Frontal"]
    paths = [checked_path(value, row, name) for row, value in zip(frame.index, frame["Path"], strict=True)]
    return FindingLabels(
        ids=paths,
        findings=findings,
        values=label_values(frame, findings, name),
        patients=_patients(paths, frame.index, name),
        name=name,
        subgroups=subgroup_values(frame, _SUBGROUPS),
    )


def _patients(paths: Sequence[str], rows: Sequence[Any], name: str) -> list[str] | None:
    """The patient in each path, or None where no path has one."""
    found = [_PATIENT.search(path) for path in paths]
    if not any(found):
        return None
    for row, path, match in zip(rows, paths, found, strict=True):
        if match is None:
            raise ClipAlignError(
                f"{name}: row {row} (from 0): the path {short(path)} has no part patient00001, as "
                "others have: without it "
                "one patient's images cannot be kept together"
            )
    return [match[1] for match in found if match]
