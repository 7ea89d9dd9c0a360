"""Prompts of findings: the published ones, and files of your own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_clipalign._checks.quoting import quoted, short
from hf_clipalign._checks.texts import as_texts
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.data.labels.finding_names import checked_findings
from hf_clipalign.data.labels.prompt_files import read_prompt_file

POSITIVE_PROMPTS = (
    "Findings consistent with {}",
    "Findings suggesting {}",
    "This opacity can represent {}",
    "Findings are most compatible with {}",
)
NEGATIVE_PROMPTS = ("There is no {}", "No evidence of {}", "No evidence of acute {}", "No signs of {}")
SINGLE_PROMPTS = ("Findings suggesting {}", "No evidence of {}")


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
        >>> from hf_clipalign.data import FindingPrompts
        >>> FindingPrompts.published(["Edema"]).negative["Edema"][0]
        'There is no Edema'
        >>> FindingPrompts.load("prompts.yaml").positive
        {'Edema': ['fluid in the lungs']}
        ```
    """

    positive: Mapping[str, Sequence[str]]
    negative: Mapping[str, Sequence[str]]

    def __post_init__(self) -> None:
        if not self.positive and not self.negative:
            raise ClipAlignError("there are no findings: give positive and negative prompts for at least one.")
        for name in checked_findings(list(dict.fromkeys([*self.positive, *self.negative]))):
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
        positive, negative = as_texts(positive, "positive templates"), as_texts(negative, "negative templates")
        for template in (*positive, *negative):
            if re.findall(r"[{}]", template) != ["{", "}"] or "{}" not in template:
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
            `ClipAlignError`: the file is missing or cannot be read, names something twice, or a finding lacks a list
                or has something else.
        """
        path = Path(path).expanduser()
        content = read_prompt_file(path)
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
        findings = as_texts(findings, "findings")
        missing = [name for name in findings if name not in self.positive]
        if missing:
            raise ClipAlignError(f"no prompts for {quoted(missing)}; there are prompts for {quoted(self.findings)}.")
        return FindingPrompts(*({name: kind[name] for name in findings} for kind in (self.positive, self.negative)))
