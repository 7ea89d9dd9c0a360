"""The card of a trained model: what all trainers know, and what each adds."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import hf_clipalign
from hf_clipalign._io.files import atomic_file
from hf_clipalign._io.masking import public_name
from hf_clipalign.evaluation import ReportTable, ResultTable
from hf_clipalign.hub.cards import CardEvaluation, ModelCardInfo, build_card
from hf_clipalign.hub.scores import table_evaluation

CARD_FILE = "README.md"
_LIBRARIES = ("torch", "transformers", "peft")


def write_card(trainer: Any, folder: Path) -> None:
    """Writes `README.md` beside a trained model."""
    with atomic_file(folder / CARD_FILE) as staging:
        staging.write_text(str(build_card(card_info(trainer, folder))), encoding="utf-8")


def card_info(trainer: Any, folder: Path) -> ModelCardInfo:
    """All that the card says: facts of the run and of the class, `card_facts` of the trainer over them."""
    model, args = trainer.trained_model, trainer.args
    own = trainer.card_facts()
    is_adapter = hasattr(model, "peft_config")
    load_from = args.hub_model_id or folder.absolute().name
    facts: dict[str, Any] = {
        "kind": "adapter" if is_adapter else "clip",
        "name": load_from.rsplit("/", 1)[-1],
        "load_from": load_from,
        "model_class": None if is_adapter else type(model).__name__,
        "base_model": shown_model(model),
        "method": trainer._paper,
        "command": trainer._command,
        "evaluations": _evaluations(trainer._results, trainer._row),
        "tags": trainer._tag_names,
    }
    versions = [f"hf_clipalign {hf_clipalign.__version__}", *(f"{name} {version(name)}" for name in _LIBRARIES)]
    rows = {**_settings(trainer), **own.pop("parameters", {}), "versions": versions}
    return ModelCardInfo(**{**facts, **own}, parameters=rows)


def shown_model(model: Any) -> str:
    """What a model is called in public: its Hub id, or the name of its folder or class."""
    return public_name(getattr(model.config, "_name_or_path", None)) or type(model).__name__


def _settings(trainer: Any) -> dict[str, Any]:
    """The data and the settings that every run has."""
    args, state = trainer.args, trainer.state
    source = getattr(trainer.train_dataset, "source", None)
    data = {"data": "model inputs"}
    if source is not None:
        data = {
            "data": f"{len(source):,} images of {public_name(source.name)}",
            "fingerprint of the data": source.fingerprint(),
        }
    trained = sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
    steps = f", {state.global_step:,} steps" if state.global_step else ""
    return {
        **data,
        "trained parameters": f"{trained:,}",
        "learning rate": args.learning_rate,
        "epochs": f"{state.epoch or args.num_train_epochs:.4g}{steps}",
        "batch": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "seed": args.seed,
    }


def _evaluations(results: Any, row: str | None) -> list[CardEvaluation]:
    if results is None:
        return []
    if isinstance(results, ResultTable):
        return [table_evaluation(results, row)]
    return [CardEvaluation("Results", [], results)] if isinstance(results, ReportTable) else list(results)
