"""Chest X-rays with findings: CheXpert and MIMIC-CXR-JPG."""

from __future__ import annotations

import os

from hf_clipalign.benchmarks.formats.listing import Place, require_files
from hf_clipalign.data import FindingLabels, read_chexpert, read_mimic_cxr
from hf_clipalign.data.labels.formats import below

_MIMIC_PARTS = ("train", "validate", "test")


def read_chexpert_parts(place: Place) -> dict[str, FindingLabels]:
    """CheXpert's `train.csv` and `valid.csv`, see `hf_clipalign.data.read_chexpert`; ids are paths below the folder.

    Args:
        place (`Place`): with one file per part.
    """
    return {part: _present(read_chexpert(place.file(part)), place, part) for part in place.layout.files}


def read_mimic_parts(place: Place) -> dict[str, FindingLabels]:
    """MIMIC-CXR-JPG's labels and its list of splits, see `hf_clipalign.data.read_mimic_cxr`.

    Args:
        place (`Place`): with the files `labels` and `split`.
    """
    labels, listing = place.file("labels"), place.file("split")
    return {part: _present(read_mimic_cxr(labels, listing, split=part), place, part) for part in _MIMIC_PARTS}


def _present(labels: FindingLabels, place: Place, part: str) -> FindingLabels:
    """The labels with paths below the folder, all of which are there."""
    labels = below(labels, place.folder)
    require_files([os.path.join(place.folder, name) for name in labels.ids], f"{place.title}: {part}")
    return labels
