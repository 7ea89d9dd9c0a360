"""The model card of a learned prompt."""

from __future__ import annotations

import math
import re
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_clipalign
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import atomic_file
from hf_clipalign.evaluation.reports.pages import ReportTable
from hf_clipalign.hub.cards import CardEvaluation, ModelCardInfo, build_card, is_hub_id
from hf_clipalign.papers import paper

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from hf_clipalign.evaluation import ResultTable

_LIBRARIES = ("torch", "transformers", "peft")
_LIMIT = "Prompts must begin with the words of the template: learned context takes the place of its first tokens."


def write_prompt_card(
    trainer: Any, folder: str | Path, results: ResultTable | None = None, command: str = "", row: str | None = None
) -> Path:
    """Writes `README.md` beside an adapter.

    Args:
        trainer (`PromptLearningTrainer`): what trained it.
        folder (`str` or `Path`): where the adapter is.
        results (`ResultTable`, *optional*): the numbers to show.
        command (`str`): what was run. Default: none.
        row (`str`, *optional*): the row of `results` that is this adapter, for the metadata. Default: the only row;
            of several none, so that no other model's numbers are taken for this one's.

    Returns:
        `Path`: the card.

    Raises:
        `ClipAlignError`: `results` has no such row.
    """
    evaluations = [] if results is None else [_evaluation(results, row)]
    card = build_card(_describe(trainer, Path(folder), evaluations, command))
    path = Path(folder) / "README.md"
    with atomic_file(path) as staging:
        staging.write_text(str(card), encoding="utf-8")
    return path


def _describe(trainer: Any, folder: Path, evaluations: list[CardEvaluation], command: str) -> ModelCardInfo:
    """All that the card says."""
    learner, args = trainer.learner, trainer.args
    method = learner.method.removeprefix("clip_")
    distilled = getattr(trainer, "teacher", None) is not None
    base = _shown(learner.encoder.model)
    return ModelCardInfo(
        kind="adapter",
        name=f"{paper(method).method}{' + KDPL' if distilled else ''} prompt for {Path(base).name}",
        load_from=args.hub_model_id or folder.absolute().name,
        base_model=base,
        method=method,
        also_cites=["kdpl"] if distilled else [],
        description=_description(trainer),
        parameters={**_data(trainer), **_teacher(trainer), **_training(trainer)},
        command=command,
        template=args.template,
        needs_package=True,
        evaluations=evaluations,
        limits=[] if method == "vpt" else [_LIMIT],
        tags=["prompt-learning"],
    )


def _description(trainer: Any) -> str:
    teacher = getattr(trainer, "teacher", None)
    if teacher is None:
        return "The prompt was learned from labelled images."
    unknown = ", class names unknown" if _is_agnostic(trainer) else ""
    return f"The prompt was distilled without labels from `{_shown(teacher.model)}` (KDPL{unknown})."


def _data(trainer: Any) -> dict[str, Any]:
    """The images and the classes."""
    source = getattr(trainer.train_dataset, "source", None)
    classes = f"{len(trainer.class_names):,}"
    if _is_agnostic(trainer):
        classes += f" concepts of a dictionary, {getattr(trainer.args, 'k_max', 0):,} kept per step"
    if source is None:
        return {"data": "tensors", "classes": classes}
    data = f"{len(source):,} images of {Path(source.name).name}"
    return {"data": data, "fingerprint of the data": source.fingerprint(), "classes": classes}


def _teacher(trainer: Any) -> dict[str, Any]:
    teacher = getattr(trainer, "teacher", None)
    if teacher is None:
        return {}
    size = f"{teacher.n_parameters / 1e6:.1f} M parameters"
    return {"teacher": f'{_shown(teacher.model)}, {size}, prompt "{trainer.teacher_template}"'}


def _training(trainer: Any) -> dict[str, Any]:
    """The settings of the run and the versions."""
    args = trainer.args
    versions = [f"hf_clipalign {hf_clipalign.__version__}", *(f"{name} {version(name)}" for name in _LIBRARIES)]
    return {
        "trained numbers": f"{sum(p.numel() for p in trainer.learner.parameters() if p.requires_grad):,}",
        "prompt template": args.template,
        "learning rate": args.learning_rate,
        "epochs": f"{args.num_train_epochs:g}",
        "batch": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "seed": args.seed,
        "versions": versions,
    }


def _evaluation(results: ResultTable, row: str | None) -> CardEvaluation:
    """The table for people, one row of it for the metadata."""
    if row is not None and row not in results.scores:
        raise ClipAlignError(f"the results have no row {row!r}, only {', '.join(results.scores)}: name one of them.")
    if row is None and len(results.scores) == 1:
        row = next(iter(results.scores))
    table = ReportTable(["method", *results.tests], results.cells())
    own = [] if row is None else _own_results(results, row)
    return CardEvaluation(f"{results.title or 'Accuracy'}{results.unit}", own, table, results.note)


def _own_results(results: ResultTable, row: str) -> list[EvalResult]:
    """The tests of one run; a mean over several is no number of this adapter."""
    from huggingface_hub import EvalResult

    runs = {test: list(values.values()) for test, values in results.scores[row].items()}
    return [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=test if is_hub_id(test) else re.sub(r"[^\w.]+", "-", test),
            dataset_name=test,
            metric_type="accuracy",
            metric_name="accuracy, %",
            metric_value=round(100 * values[0], 2),
        )
        for test, values in runs.items()
        if len(values) == 1 and math.isfinite(values[0])
    ]


def _is_agnostic(trainer: Any) -> bool:
    return bool(getattr(trainer.args, "class_agnostic", False))


def _shown(model: Any) -> str:
    """The model's Hub id; the name of its folder where it is local: paths of this machine tell others nothing."""
    name = model.config._name_or_path
    if is_hub_id(name) and not Path(name).exists():
        return name
    return Path(name).name or type(model).__name__
