"""Labels of a multi-label task: present, absent, uncertain or missing for each finding of each image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hf_clipalign._checks.quoting import quoted, short, short_reason
from hf_clipalign._checks.sequences import as_list
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.images.source import ImageSource, as_names, check_lengths, digest
from hf_clipalign.data.labels.columns import is_missing
from hf_clipalign.data.labels.finding_names import checked_findings

POLICIES = ("ignore", "zeros", "ones")

_UNCERTAIN = -1.0
_SHORT = 8  # hexadecimal digits: enough to see a change, too few to find out labels by trying


def is_label(values: np.ndarray) -> np.ndarray:
    """Where `[N, F]` numbers are labels: 1, 0, −1 or NaN."""
    return np.isin(values, (0.0, 1.0, _UNCERTAIN)) | np.isnan(values)


@dataclass(frozen=True)
class FindingLabels:
    """Labels of a multi-label task, as they come from a file.

    Args:
        ids (`list[str]`): N names, unique: the paths of the images.
        findings (`list[str]`): F names.
        values (array `[N, F]`): 1 present, 0 absent, −1 uncertain, NaN missing; kept as float64.
        patients (`list[str]`, *optional*): the patient of each row, to keep one patient's images together.
        name (`str`): what errors call the labels.
        subgroups (`Mapping[str, list[str]]`, *optional*): what is known of each row, by the name of the property:
            `{"sex": ["Female", …], "view": […]}`; an empty text is not known. Scores can be given for each.

    Raises:
        `ClipAlignError`: no rows, shapes that do not fit, ids or findings that occur twice, or other values.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> labels = FindingLabels(["1.png", "2.png"], ["Edema", "Fracture"], [[1, -1], [0, 1]])
        >>> labels.targets(uncertain="zeros")
        array([[1., 0.],
               [0., 1.]], dtype=float32)
        ```
    """

    ids: list[str]
    findings: list[str]
    values: np.ndarray
    patients: list[str] | None = None
    name: str = field(default="labels")
    subgroups: Mapping[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", checked_findings(self.findings))
        object.__setattr__(self, "ids", as_names(self.ids, f"{self.name}: ids"))
        if self.patients is not None:
            object.__setattr__(self, "patients", as_names(self.patients, f"{self.name}: patients"))
        object.__setattr__(self, "subgroups", {kind: self._known(kind) for kind in self.subgroups})
        object.__setattr__(self, "values", self._numbers())
        if not len(self.ids):
            raise ClipAlignError(f"{self.name}: there are no rows")
        shape = (len(self.ids), len(self.findings))
        if self.values.shape != shape:
            raise ClipAlignError(
                f"{self.name}: values have shape {self.values.shape}, ids and findings ask for {shape}"
            )
        if twice := next((name for name, count in Counter(self.ids).items() if count > 1), None):
            raise ClipAlignError(f"{self.name}: the id {short(twice)} occurs twice; every image needs one row")
        check_lengths(self.name, "rows", self.ids, patients=self.patients)
        check_lengths(self.name, "rows", self.ids, **self.subgroups)
        strange = np.argwhere(~is_label(self.values))
        if len(strange):
            row, column = strange[0]
            raise ClipAlignError(
                f"{self.name}: labels must be 1, 0, -1 (uncertain) or empty, found {self.values[row, column]:g} in "
                f"row {row} (from 0, {short(self.ids[row])}), column {short(self.findings[column])}"
            )

    def _known(self, kind: str) -> list[str]:
        """What is known of each row, by position; empty where nothing is."""
        values = as_list(self.subgroups[kind], f"{self.name}: {kind}")
        return ["" if is_missing(value) else str(value) for value in values]

    def _numbers(self) -> np.ndarray:
        """The values as float64; the columns of a data frame by their names, whatever their order."""
        values: Any = self.values
        if hasattr(values, "columns"):
            if missing := [name for name in self.findings if name not in list(values.columns)]:
                raise ClipAlignError(f"{self.name}: no column {quoted(missing)}; there are {quoted(values.columns)}")
            values = values[self.findings]
        try:
            return np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ClipAlignError(f"{self.name}: labels must be numbers [N, F] ({short_reason(error)})") from error

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Any = None, findings: Sequence[str] | None = None) -> FindingLabels:
        """Some rows (numbers or a mask) and some findings, in the given order."""
        index = np.arange(len(self))[slice(None) if rows is None else np.asarray(rows)]
        names = self.findings if findings is None else as_texts(findings, "findings")
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
            subgroups={kind: [values[row] for row in index] for kind, values in self.subgroups.items()},
        )

    def targets(
        self,
        uncertain: str | Mapping[str, str] = "ignore",
        missing: str | Mapping[str, str] = "ignore",
    ) -> np.ndarray:
        """Labels for a loss: 1, 0, and NaN for entries that must not count.

        Args:
            uncertain (`str` or `Mapping[str, str]`, *optional*, defaults to `"ignore"`):
                what −1 becomes: `"ignore"`, `"zeros"` or `"ones"`; a
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
