"""From a trained adapter to a page: the clinical table beside plain baselines, and the scores after every task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_clipalign.evaluation import ClinicalTable, LinearProbe, ModelScores, Section, clinical_table
from hf_clipalign.evaluation.reports.incremental import write_incremental_report
from hf_clipalign.features import LabelledEmbeddings
from hf_clipalign.trainers.retune.data import targets

RETUNE, ZERO_SHOT, PROBE = "RE-tune", "zero-shot", "linear probe"


def measure_findings(
    trainer: Any, test: LabelledEmbeddings, validation: LabelledEmbeddings | None = None, n_resamples: int = 1000
) -> ClinicalTable:
    """The clinical table of an adapter: the zero-shot model and a linear probe on the same embeddings stand beside it.

    Args:
        trainer (`RETuneTrainer`): after training; its card will show the table. The probe learns from the rows and
            labels of its tasks.
        test (`LabelledEmbeddings`): the test data.
        validation (`LabelledEmbeddings`, *optional*): for thresholds and calibration, neither training nor test data.
            Default: none, and no number that depends on a threshold.
        n_resamples (`int`, *optional*, defaults to 1000): of the bootstrap over patients.

    Returns:
        `ClinicalTable`.

    Example:
        ```python
        >>> trainer.train()
        >>> print(measure_findings(trainer, test, validation).verdict)
        ```
    """
    models = [
        _prompted(RETUNE, trainer, test, validation, True),
        _prompted(ZERO_SHOT, trainer, test, validation, False),
    ]
    if (probe := _probe(trainer, test, validation)) is not None:
        models.append(probe)
    own = None if validation is None else validation.labels
    learned = trainer.state_folder.learned
    trainer.clinical = clinical_table(models, test.labels, own, learned, n_resamples)
    return trainer.clinical


def write_findings(trainer: Any, folder: str | Path, lead: str = "", title: str = "Findings") -> Path:
    """Writes `index.html`, `findings.csv`, `findings.json`, and the scores after every task as plots and JSON.

    Args:
        trainer (`RETuneTrainer`): after training and `measure_findings`.
        folder (`str` or `Path`): where to write.
        lead, title (`str`): first paragraph and heading of the page.

    Returns:
        `Path`: the page.

    Example:
        ```python
        >>> measure_findings(trainer, test, validation)
        >>> write_findings(trainer, "report").name
        'index.html'
        ```
    """
    trainer.clinical.save(folder)
    return write_incremental_report(
        folder, [trainer.result], title=title, lead=lead, first=[findings_section(trainer)]
    )


def findings_section(trainer: Any, title: str = "Each finding, beside plain baselines") -> Section:
    """The clinical table as a part of a page.

    Args:
        trainer (`RETuneTrainer`): after training and `measure_findings`.
        title (`str`): its heading.

    Returns:
        `Section`: verdict, warnings, tables and the reliability plot.

    Example:
        ```python
        >>> measure_findings(trainer, test, validation)
        >>> findings_section(trainer).title
        'Each finding, beside plain baselines'
        ```
    """
    table, result = trainer.clinical, trainer.result
    tables = [part for part in (table.ranking_table(), table.threshold_table(), table.subgroup_table()) if part]
    figure = table.plot()
    caption = "Reliability on the test data: predicted probability, scaled on validation data, and observed share"
    warnings = [f"Warning: {text}" for text in (result.leak, *result.warnings) if text]
    figures = [] if figure is None else [(caption, figure)]
    return Section(title, [table.verdict, *warnings, *table.notes], tables, figures)


def _prompted(
    name: str, trainer: Any, test: LabelledEmbeddings, validation: LabelledEmbeddings | None, adapted: bool
) -> ModelScores:
    """The adapter, or the model without it, by the prompts."""
    findings = test.labels.findings
    scores, hard = trainer.scores(test.embeds, findings, adapted=adapted)
    chosen_on = None if validation is None else trainer.scores(validation.embeds, findings, adapted=adapted)[0].numpy()
    return ModelScores(name, findings, scores.numpy(), chosen_on, hard.numpy())


def _probe(trainer: Any, test: LabelledEmbeddings, validation: LabelledEmbeddings | None) -> ModelScores | None:
    """A linear probe on the rows and labels that the tasks of this run saw."""
    data = trainer.data
    if data is None or not trainer.tasks:
        return None
    seen = np.full(data.labels.values.shape, np.nan, dtype=np.float32)
    for task in trainer.tasks:
        columns = [data.labels.findings.index(name) for name in task.findings]
        seen[np.ix_(task.rows, columns)] = targets(data, task, trainer.args).numpy()
    rows = np.flatnonzero(~np.isnan(seen).all(axis=1))
    probe = LinearProbe(data.embeds[rows].float().numpy(), seen[rows], data.labels.select(rows))
    if not probe.findings:
        return None
    chosen_on = None if validation is None else probe.scores(validation.embeds.float().numpy())
    return ModelScores(PROBE, probe.findings, probe.scores(test.embeds.float().numpy()), chosen_on)
