"""Findings of a multi-label task: their prompts, their labels, and the label files of CheXpert and MIMIC-CXR."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._quoting import quoted, short, short_reason
from hf_clipalign.data.images.source import ImageSource, digest

if TYPE_CHECKING:
    import pandas as pd

POLICIES = ("ignore", "zeros", "ones")
CHEXPERT_COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five findings of the CheXpert competition, which RE-tune's paper learns one after the other."""

POSITIVE_PROMPTS = (
    "Findings consistent with {}",
    "Findings suggesting {}",
    "This opacity can represent {}",
    "Findings are most compatible with {}",
)
NEGATIVE_PROMPTS = ("There is no {}", "No evidence of {}", "No evidence of acute {}", "No signs of {}")
SINGLE_PROMPTS = ("Findings suggesting {}", "No evidence of {}")

_UNCERTAIN = -1.0
_SHORT = 8  # hexadecimal digits: enough to see a change, too few to find out labels by trying
_TEXT_COLUMNS = dict.fromkeys(("Path", "dicom_id", "study_id", "subject_id"), str)
_PATIENT = re.compile(r"(?:^|/)(patient\d+)(?:/|$)")


@dataclass(frozen=True)
class FindingPrompts:
    """Positive and negative prompts by finding.

    Args:
        positive (`Mapping[str, Sequence[str]]`): what a report says where the finding is present.
        negative (`Mapping[str, Sequence[str]]`): what it says where it is absent; the same findings.

    Raises:
        `ClipAlignError`: no findings, a finding that lacks one of its lists, a prompt that is blank or no text.

    Example:
        ```python
        >>> FindingPrompts.published(["Edema"]).negative["Edema"][0]
        'There is no Edema'
        ```
    """

    positive: Mapping[str, Sequence[str]]
    negative: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        if not self.positive and not self.negative:
            raise ClipAlignError("there are no findings: give positive and negative prompts for at least one.")
        for name in checked_findings(dict.fromkeys([*self.positive, *self.negative])):
            for kind, prompts in (("positive", self.positive), ("negative", self.negative)):
                texts = prompts.get(name)
                if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
                    raise ClipAlignError(
                        f"the finding {short(name)} has no list of {kind} prompts: give at least one."
                    )
                for text in texts:
                    if not isinstance(text, str):
                        raise ClipAlignError(
                            f"the finding {short(name)} has the {kind} prompt {short(text)}, "
                            "which is no text: put it in quotes."
                        )
                    if not text.strip():
                        raise ClipAlignError(
                            f"the finding {short(name)} has a blank {kind} prompt: write it or leave it out."
                        )

    @property
    def findings(self) -> list[str]:
        """Names in order."""
        return list(self.positive)

    @classmethod
    def published(cls, findings: Sequence[str], single: bool = False) -> FindingPrompts:
        """The paper's four positive and four negative prompts for each finding, or one of each if `single`."""
        positive, negative = (
            (SINGLE_PROMPTS[:1], SINGLE_PROMPTS[1:]) if single else (POSITIVE_PROMPTS, NEGATIVE_PROMPTS)
        )
        return cls.from_templates(findings, positive, negative)

    @classmethod
    def from_templates(
        cls, findings: Sequence[str], positive: Sequence[str], negative: Sequence[str]
    ) -> FindingPrompts:
        """Prompts from templates with one `{}` for the name of the finding."""
        for template in (*positive, *negative):
            if not isinstance(template, str) or re.findall(r"[{}]", template) != ["{", "}"] or "{}" not in template:
                raise ClipAlignError(
                    f"the template {short(template)} must hold exactly one '{{}}' for the "
                    "finding, and no other braces."
                )
        names = checked_findings(findings)
        positives, negatives = (
            {name: [template.format(name) for template in templates] for name in names}
            for templates in (positive, negative)
        )
        return cls(positives, negatives)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FindingPrompts:
        """Reads a YAML or JSON file: for each finding `positive` and `negative`, lists of prompts.

        Raises:
            `ClipAlignError`: the file is missing, cannot be read, names something twice, or a finding lacks a list or
                has something else.
        """
        path = Path(path).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ClipAlignError(
                f"{path}: cannot be read ({short_reason(error)}); give a YAML or JSON file"
            ) from error
        content = _parse(path, text)
        if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
            raise ClipAlignError(f"{path}: must hold, for each finding, `positive` and `negative` lists of prompts")
        for name, parts in content.items():
            if unknown := [key for key in parts if key not in ("positive", "negative")]:
                raise ClipAlignError(
                    f"{path}: {short(name)} has {quoted(unknown)}: give `positive` and `negative` alone."
                )
        kinds = ({name: parts.get(kind, []) for name, parts in content.items()} for kind in ("positive", "negative"))
        try:
            return cls(*kinds)
        except ClipAlignError as error:
            raise ClipAlignError(f"{path}: {error}") from None

    def to_dict(self) -> dict[str, dict[str, list[str]]]:
        """What `load` reads, as a dictionary."""
        return {
            name: {"positive": list(self.positive[name]), "negative": list(self.negative[name])}
            for name in self.findings
        }

    def select(self, findings: Sequence[str]) -> FindingPrompts:
        """Some findings, in that order.

        Raises:
            `ClipAlignError`: one has no prompts.
        """
        missing = [name for name in findings if name not in self.positive]
        if missing:
            raise ClipAlignError(f"no prompts for {quoted(missing)}; there are prompts for {quoted(self.findings)}.")
        return FindingPrompts(*({name: kind[name] for name in findings} for kind in (self.positive, self.negative)))


@dataclass(frozen=True)
class FindingLabels:
    """Labels of a multi-label task, as they come from a file.

    Args:
        ids (`list[str]`): N names, unique: the paths of the images.
        findings (`list[str]`): F names.
        values (array `[N, F]`): 1 present, 0 absent, −1 uncertain, NaN missing; kept as float64.
        patients (`list[str]`, *optional*): the patient of each row, to keep one patient's images together.
        name (`str`): what errors call the labels.

    Raises:
        `ClipAlignError`: no rows, shapes that do not fit, ids or findings that occur twice, or other values.
    """

    ids: list[str]
    findings: list[str]
    values: np.ndarray
    patients: list[str] | None = None
    name: str = field(default="labels")

    def __post_init__(self) -> None:
        checked_findings(self.findings)
        try:
            object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ClipAlignError(f"{self.name}: labels must be numbers [N, F] ({short_reason(error)})") from error
        if not len(self.ids):
            raise ClipAlignError(f"{self.name}: there are no rows")
        shape = (len(self.ids), len(self.findings))
        if self.values.shape != shape:
            raise ClipAlignError(
                f"{self.name}: values have shape {self.values.shape}, ids and findings ask for {shape}"
            )
        if twice := next((name for name, count in Counter(self.ids).items() if count > 1), None):
            raise ClipAlignError(f"{self.name}: the id {short(twice)} occurs twice; every image needs one row")
        if self.patients is not None and len(self.patients) != len(self.ids):
            raise ClipAlignError(f"{self.name}: {len(self.patients)} patients for {len(self.ids)} rows")
        strange = self.values[~np.isin(self.values, (0.0, 1.0, _UNCERTAIN)) & ~np.isnan(self.values)]
        if len(strange):
            raise ClipAlignError(f"{self.name}: labels must be 1, 0, -1 (uncertain) or empty, found {strange[0]:g}")

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Any = None, findings: Sequence[str] | None = None) -> FindingLabels:
        """Some rows (numbers or a mask) and some findings, in the given order."""
        index = np.arange(len(self))[slice(None) if rows is None else np.asarray(rows)]
        names = self.findings if findings is None else list(findings)
        missing = [name for name in names if name not in self.findings]
        if missing:
            raise ClipAlignError(f"{self.name}: no finding {quoted(missing)}; there are {quoted(self.findings)}")
        columns = [self.findings.index(name) for name in names]
        return replace(
            self,
            ids=[self.ids[row] for row in index],
            findings=names,
            values=self.values[index][:, columns],
            patients=None if self.patients is None else [self.patients[row] for row in index],
        )

    def targets(
        self,
        uncertain: str | Mapping[str, str] = "ignore",
        missing: str | Mapping[str, str] = "ignore",
    ) -> np.ndarray:
        """Labels for a loss: 1, 0, and NaN for entries that must not count.

        Args:
            uncertain (`str` or `Mapping[str, str]`): what −1 becomes: `"ignore"` (default), `"zeros"` or `"ones"`; a
                mapping gives it by finding, and the findings that it lacks are ignored.
            missing (`str` or `Mapping[str, str]`): what an empty cell becomes, likewise.

        Returns:
            `np.ndarray [N, F]`: float32.

        Raises:
            `ClipAlignError`: another policy, or a finding that is not there.
        """
        targets = self.values.astype(np.float32)
        for policy, where in ((uncertain, self.values == _UNCERTAIN), (missing, np.isnan(self.values))):
            fill = np.array(self._policy_values(policy), dtype=np.float32)
            targets = np.where(where, fill, targets)
        return targets

    def source(self, root: str | os.PathLike[str]) -> ImageSource:
        """The images of the rows, below the folder `root`."""
        import pandas as pd

        from hf_clipalign.data.images.tables import from_table

        source = from_table(pd.DataFrame({"path": self.ids}), image_column="path", root=root)
        source.name = self.name
        return source

    def fingerprint(self) -> str:
        """A hash of ids, findings and values."""
        return digest(self.ids, self.findings, [np.ascontiguousarray(self.values.astype(np.float32)).tobytes()])

    def fingerprints(self) -> dict[str, str]:
        """For each finding a short hash of its known labels and the names of their rows, in whatever order they are.

        Two sets of test data on which a score of the finding is the same thing have the same hash: rows whose label of
        it is uncertain or missing, and other findings, do not count.
        """
        names = np.array(list(map(str, self.ids)), dtype=object)
        order = np.argsort(names)
        ids, targets = names[order], self.targets()[order]
        known = ~np.isnan(targets)
        return {
            name: digest(ids[known[:, column]], [targets[known[:, column], column].tobytes()])[:_SHORT]
            for column, name in enumerate(self.findings)
        }

    def _policy_values(self, policy: str | Mapping[str, str]) -> list[float]:
        by_finding = dict.fromkeys(self.findings, policy) if isinstance(policy, str) else dict(policy)
        unknown = [name for name in by_finding if name not in self.findings]
        if unknown:
            raise ClipAlignError(f"a policy for {quoted(unknown)}, but the findings are {quoted(self.findings)}.")
        values = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
        for name, choice in by_finding.items():
            if choice not in values:
                raise ClipAlignError(
                    f"no policy {short(choice)} for {short(name)}: choose one of {', '.join(POLICIES)}."
                )
        return [values[by_finding.get(name, "ignore")] for name in self.findings]


def checked_findings(names: Any) -> list[str]:
    """Names of findings as a list: texts, at least one, none twice; a single text is not taken for its letters.

    Args:
        names (`Iterable[str]`): what is to be checked.

    Raises:
        `ClipAlignError`: something else.
    """
    if isinstance(names, str):
        raise ClipAlignError(f"findings must be a list of names, got the text {short(names)}: give [{short(names)}].")
    findings = list(names)
    if not findings:
        raise ClipAlignError("there are no findings: name at least one.")
    for name in findings:
        if not isinstance(name, str) or not name.strip():
            raise ClipAlignError(f"the finding {short(name)} is no name: give texts, in a YAML file in quotes.")
    if len(set(findings)) != len(findings):
        raise ClipAlignError(f"findings must differ from one another, got {quoted(findings)}.")
    return findings


def read_chexpert(
    path: str | os.PathLike[str],
    findings: Sequence[str] = CHEXPERT_COMPETITION,
    frontal_only: bool = False,
) -> FindingLabels:
    """Reads CheXpert's `train.csv` or `valid.csv` as it comes.

    Args:
        path (`str` or `os.PathLike`): the file; a column `Path` and one for each finding: 1, 0, −1 or empty.
        findings (`Sequence[str]`): columns to take. Default: the five of the competition.
        frontal_only (`bool`): leave lateral images out. Default False.

    Returns:
        `FindingLabels`: ids are the paths, with `/` also where the file has backslashes; the patient is the part
            `patient00001` of the path. Where no path has one, patients are not known.

    Raises:
        `ClipAlignError`: the file or a column is missing, a path leaves its folder, a value is no label, some paths
            have a patient and others have none.
    """
    frame, name = _read_csv(path)
    findings = checked_findings(findings)
    _require(frame, ["Path", *findings, *(["Frontal/Lateral"] if frontal_only else [])], name)
    if frontal_only:
        frame = frame[frame["Frontal/Lateral"] == "Frontal"]
    paths = [_checked_path(value, row, name) for row, value in zip(frame.index, frame["Path"], strict=True)]
    return FindingLabels(
        ids=paths,
        findings=findings,
        values=_label_values(frame, findings, name),
        patients=_patients(paths, frame.index, name),
        name=name,
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
        findings (`Sequence[str]`): columns to take. Default: the five of CheXpert's competition.
        split (`str`, *optional*): `"train"`, `"validate"` or `"test"`; needs the column `split` in `images`.
        views (`Sequence[str]`, *optional*): `["PA", "AP"]` for example; needs the column `ViewPosition`.

    Returns:
        `FindingLabels`: one row for each image of a labelled study; ids are the data set's own paths,
        `files/p10/p10000032/s50414267/<dicom_id>.jpg`; the patient is the subject.

    Raises:
        `ClipAlignError`: a file or a column is missing, nothing is left, an identifier is empty, no whole number or
            leaves its folder, a study has two rows of labels that differ, or two subjects.
    """
    findings = checked_findings(findings)
    table, name = _read_csv(labels)
    listing, listing_name = _read_csv(images)
    _require(table, ["subject_id", "study_id", *findings], name)
    wanted = [*(["split"] if split else []), *(["ViewPosition"] if views else [])]
    _require(listing, ["dicom_id", "study_id", "subject_id", *wanted], listing_name)
    _check_identifiers(table, name)
    _check_identifiers(listing, listing_name)
    if split is not None:
        listing = listing[listing["split"] == split]
    if views is not None:
        listing = listing[listing["ViewPosition"].isin(list(views))]
    studies = table[["study_id", "subject_id", *findings]].drop_duplicates()
    if len(twice := studies["study_id"][studies["study_id"].duplicated()]):
        raise ClipAlignError(f"{name}: the study {short(twice.iloc[0])} has two rows that differ: keep the right one")
    joined = listing[["dicom_id", "study_id", "subject_id"]].merge(studies, on="study_id", suffixes=("", "_labels"))
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
        ids=[_checked_path(text, row, listing_name) for row, text in enumerate(ids)],
        findings=findings,
        values=_label_values(joined, findings, name),
        patients=[f"p{subject}" for subject in joined["subject_id"]],
        name=name,
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


def _parse(path: Path, text: str) -> Any:
    """What a YAML or JSON file holds; a key that stands twice is an error in both."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            _require_once([key.value for key, _ in node.value])
            return super().construct_mapping(node, deep)

    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_dict_of_pairs)
        return yaml.load(text, Loader)
    except (ValueError, yaml.YAMLError) as error:
        raise ClipAlignError(f"{path}: is no valid YAML or JSON ({short_reason(error)})") from error


def _dict_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_once([key for key, _ in pairs])
    return dict(pairs)


def _require_once(keys: list[Any]) -> None:
    if twice := next((key for key, count in Counter(map(str, keys)).items() if count > 1), None):
        raise ValueError(f"{short(twice)} occurs twice")


def _read_csv(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, str]:
    import pandas as pd

    file = Path(path).expanduser()
    try:
        return pd.read_csv(file, encoding="utf-8-sig", low_memory=False, dtype=_TEXT_COLUMNS), str(file)
    except (OSError, ValueError) as error:
        raise ClipAlignError(f"{file}: the label file cannot be read ({short_reason(error)})") from error


def _require(frame: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ClipAlignError(f"{name}: no column {quoted(missing)}; the columns are {quoted(frame.columns)}")


def _label_values(frame: pd.DataFrame, findings: Sequence[str], name: str) -> np.ndarray:
    try:
        return frame[list(findings)].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise ClipAlignError(f"{name}: a label is no number ({short_reason(error)})") from error


def _checked_path(value: Any, row: Any, name: str) -> str:
    """A relative path that stays below its folder, with `/` between its parts."""
    text = value.replace("\\", "/") if isinstance(value, str) else ""
    parts = text.split("/")
    if not text or text.startswith(("/", "~")) or ".." in parts or ":" in parts[0] or "\0" in text:
        raise ClipAlignError(
            f"{name}: row {row} (from 0): the path {short(value)} is no relative path below its folder"
        )
    return text
