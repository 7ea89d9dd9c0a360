"""What the numbers of the clinical table say in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_clipalign.data import FindingLabels
from hf_clipalign.evaluation.clinical.measuring import ModelScores
from hf_clipalign.metrics import auroc_differences, multilabel_metrics


def compared_models(models: Sequence[ModelScores], test: FindingLabels, n_resamples: int = 1000) -> str:
    """Whether the first model is better than the best of the others, on average over findings, in a sentence or two.

    Args:
        models (`Sequence[ModelScores]`): the model and its baselines.
        test (`FindingLabels`): the test labels.
        n_resamples (`int`, *optional*, defaults to 1000): of the paired bootstrap, over patients where they are known.

    Example:
        ```python
        >>> from hf_clipalign.data import FindingLabels
        >>> labels = FindingLabels(["1.png", "2.png"], ["cough"], [[1], [0]])
        >>> compared_models([ModelScores("adapter", ["cough"], np.array([[0.9], [0.1]]))], labels)
        'There is no baseline to compare adapter with.'
        ```
    """
    ours, found = models[0], []
    for other in models[1:]:
        names = _comparable(ours, other, test)
        if names:
            differences = _differences(ours, other, test, names, n_resamples)
            found.append((differences["macro_auroc"], other.name, differences))
    if not found:
        return f"There is no baseline to compare {ours.name} with."
    (value, low, high), name, differences = min(found, key=lambda entry: entry[0][0])
    points = f"{100 * abs(value):.1f} points of AUROC on average"
    interval = f"{ours.name} − {name}: {100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    if high < 0:
        sentence = f"The plain baseline {name} is better than {ours.name} by {points} ({interval}): use that instead."
    elif low > 0:
        sentence = f"{ours.name} is better than the best plain baseline, {name}, by {points} ({interval})."
    else:
        sentence = f"{ours.name} and the best plain baseline, {name}, do not differ beyond chance ({interval})."
    worse = [key.split("/", 1)[1] for key, (_, _, top) in differences.items() if "/" in key and top < 0]
    return sentence + (f" {name} is better on {', '.join(worse)}." if worse and high >= 0 else "")


def notes_of(
    rows: Sequence[dict[str, Any]],
    model: ModelScores,
    test: FindingLabels,
    validation: FindingLabels | None,
    learned: Sequence[str] | None,
) -> list[str]:
    """What a reader has to know: what was not tested, not defined, never predicted, and where thresholds come from.

    Args:
        rows (`Sequence[dict]`): of the table.
        model (`ModelScores`): the one that the table is about.
        test, validation, learned: see `clinical_table`.
    """
    own = [row for row in rows if row["model"] == model.name and not row["subgroup"]]
    defined = [row["finding"] for row in own if 0 < row["positives"] < row["n"]]
    known = list(test.findings if learned is None else learned)
    notes = []
    if absent := [name for name in known if name not in defined]:
        count = len(known) - len(absent)
        notes.append(
            f"Learned, but not in this test: {', '.join(absent)}; {count} of {len(known)} learned findings are tested."
        )
    if new := [name for name in test.findings if name not in known]:
        notes.append(f"Tested, but never learned: {', '.join(new)}.")
    silent = [row["finding"] for row in own if row["hard_predicted"] == 0 and row["positives"]]
    if silent:
        notes.append(f"Never predicted present by the hard rule: {', '.join(silent)}. Its F1 there is no score.")
    silent = [row["finding"] for row in own if row["predicted"] == 0 and row["positives"]]
    if silent:
        notes.append(f"Never predicted present at the threshold: {', '.join(silent)}.")
    if validation is None:
        notes.append("There are no validation data, so nothing that needs a threshold or probabilities is given.")
    elif without := [row["finding"] for row in own if np.isnan(row["threshold"])]:
        notes.append(f"No threshold for {', '.join(without)}: the validation data have one class of it at most.")
    if test.patients is None:
        notes.append("Patients are not known: intervals draw images, and are too narrow where a patient has several.")
    return notes


def _comparable(ours: ModelScores, other: ModelScores, test: FindingLabels) -> list[str]:
    both = [name for name in test.findings if name in ours.findings and name in other.findings]
    if not both:
        return []
    columns = [test.findings.index(name) for name in both]
    scores = np.stack([ours.column(name, "test") for name in both], 1)
    undefined = multilabel_metrics(test.targets()[:, columns], scores, finding_names=both)["undefined"]
    return [name for name in both if name not in undefined]


def _differences(
    ours: ModelScores, other: ModelScores, test: FindingLabels, names: list[str], n_resamples: int
) -> dict[str, tuple[float, float, float]]:
    columns = [test.findings.index(name) for name in names]
    first, second = (np.stack([model.column(name, "test") for name in names], 1) for model in (ours, other))
    return auroc_differences(
        *(test.targets()[:, columns], first, second),
        finding_names=names,
        groups=None if test.patients is None else np.array(test.patients, dtype=str),
        n_resamples=n_resamples,
    )
