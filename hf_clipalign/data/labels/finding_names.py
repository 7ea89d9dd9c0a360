"""Names of findings, and the five of the CheXpert competition."""

from __future__ import annotations

from typing import Any

from hf_clipalign._checks.quoting import quoted, short
from hf_clipalign._checks.sequences import as_list
from hf_clipalign._errors import ClipAlignError

CHEXPERT_COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five findings of the CheXpert competition, which RE-tune's paper learns one after the other."""


def checked_findings(names: Any) -> list[str]:
    """Names of findings as a list: texts, at least one, none twice; a single text is not taken for its letters.

    Args:
        names (`Iterable[str]`): what is to be checked.

    Raises:
        `ClipAlignError`: something else.
    """
    findings = as_list(names, "findings")
    if not findings:
        raise ClipAlignError("there are no findings: name at least one.")
    for name in findings:
        if not isinstance(name, str) or not name.strip():
            raise ClipAlignError(f"the finding {short(name)} is no name: give texts, in a YAML file in quotes.")
    if len(set(findings)) != len(findings):
        raise ClipAlignError(f"findings must differ from one another, got {quoted(findings)}.")
    return findings
