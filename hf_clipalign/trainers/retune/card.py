"""What the card of a RE-tune run says beside the settings of every run."""

from __future__ import annotations

from typing import Any, cast

from hf_clipalign._checks.quoting import counted
from hf_clipalign._io.masking import public_name
from hf_clipalign.hub.cards import CardEvaluation
from hf_clipalign.hub.retune_folder import LIMITS, METRICS_FILE, NOT_FOR_DIAGNOSIS, PROMPTS_FILE
from hf_clipalign.hub.scores import incremental_evaluation


def card_facts_of(trainer: Any) -> dict[str, Any]:
    """The findings, the tasks, what was measured after each, and what a reader of the scores must know.

    Args:
        trainer (`RETuneTrainer`): of the run.
    """
    state, config, args = trainer.state_folder, trainer.learner.adapter_config, trainer.args
    in_tasks = f"learned in {counted(len(state.tasks), 'task')}"
    here = list(dict.fromkeys(name for entry in state.tasks for name in entry["findings"]))
    result = trainer.result if trainer.result is not None and trainer.result.tasks else None
    measured = "" if trainer.result is None else f", the scores after every task in `{METRICS_FILE}`"
    before = f" Findings learned before, in another run: {', '.join(state.before)}." if state.before else ""
    return {
        "name": f"RE-tune adapter: {', '.join(state.learned) or 'untrained'}",
        "base_model": public_name(trainer.identity["model"]["name"]) or None,
        "description": f"{NOT_FOR_DIAGNOSIS} Findings, {in_tasks}: {', '.join(here)}."
        f"{before} The prompts are in `{PROMPTS_FILE}`{measured}.",
        "parameters": {
            "data": f"{len(trainer.data or ()):,} embeddings with labels",
            "adapter": f"{config.adapter}, {config.sides}, d = {config.embed_dim}",
            "tasks in order": [entry["name"] for entry in state.tasks],
            "rows per task": [f"{entry['n_rows']:,}" for entry in state.tasks],
            "epochs": f"{args.num_train_epochs:g} for each task",
            "uncertain and missing labels": [args.uncertain, args.missing],
        },
        "needs_package": True,
        "has_processor": False,
        "evaluations": _evaluations(trainer, result),
        "limits": (*LIMITS, *_warnings(state.learned, result)),
    }


def _evaluations(trainer: Any, result: Any) -> list[CardEvaluation]:
    data = cast(Any, trainer.eval_dataset)
    tests = f"test labels: {len(data):,} studies" if data else "test labels"
    found = [] if result is None else [incremental_evaluation(result, tests)]
    if trainer.clinical is not None:
        table, verdict = trainer.clinical, trainer.clinical.verdict
        found.append(CardEvaluation("Each finding, beside plain baselines", [], table.ranking_table(), verdict))
        found.append(CardEvaluation("At one threshold", [], table.threshold_table(), " ".join(table.notes)))
    return found


def _warnings(learned: list[str], result: Any) -> list[str]:
    """Patients in both training and test data, tasks without negatives, and learned findings that were not tested."""
    if result is None:
        return []
    scored = [name for name, score in zip(result.findings, result.scores["auroc"][-1], strict=True) if score == score]
    tested = [name for name in learned if name in scored]
    found = [text for text in (result.leak, *result.warnings) if text]
    if len(tested) < len(learned):
        missing = ", ".join(name for name in learned if name not in tested)
        found.append(
            f"Learned but not in this test: {missing} ({len(tested)} of {len(learned)} findings were tested)."
        )
    return found
