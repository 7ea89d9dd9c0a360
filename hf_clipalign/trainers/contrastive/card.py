"""The model card of a dual encoder that was trained on pairs."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_clipalign
from hf_clipalign._files import atomic_file
from hf_clipalign.hub.cards import CardEvaluation, ModelCardInfo, build_card, is_hub_id

if TYPE_CHECKING:
    from hf_clipalign.evaluation import ReportTable

_LIBRARIES = ("torch", "transformers")
_LOSSES = {
    "info_nce": "symmetric InfoNCE",
    "sigmoid": "pairwise sigmoid",
}
_FORGETTING = "What the base model knows about other images may be lost in part; that was not measured."
_OWN_TEMPERATURE = "The adapter does not hold the temperature of its training: logits have the base model's."
_OWN_BIAS = (
    "The bias of the sigmoid loss is not in the checkpoint, as its class has none: rankings and softmax scores do not "
    "need it."
)


def write_contrastive_card(
    trainer: Any, folder: str | Path, results: ReportTable | None = None, command: str = ""
) -> Path:
    """Writes `README.md` beside a model that `ContrastiveTrainer` trained.

    Args:
        trainer (`ContrastiveTrainer`): what trained it.
        folder (`str` or `Path`): where the model is.
        results (`ReportTable`, *optional*): numbers to show.
        command (`str`): what was run. Default: none.

    Returns:
        `Path`: the card.
    """
    path = Path(folder) / "README.md"
    with atomic_file(path) as staging:
        staging.write_text(str(build_card(_describe(trainer, Path(folder), results, command))), encoding="utf-8")
    return path


def _describe(trainer: Any, folder: Path, results: ReportTable | None, command: str) -> ModelCardInfo:
    model, args = trainer.clip, trainer.args
    name = model.config._name_or_path
    base = name if is_hub_id(name) and not Path(name).exists() else Path(name).name or type(model).__name__
    is_adapter = hasattr(model, "peft_config")
    return ModelCardInfo(
        kind="adapter" if is_adapter else "clip",
        name=f"{Path(base).name}, fine-tuned on pairs",
        load_from=args.hub_model_id or folder.absolute().name,
        model_class=None if is_adapter else type(model).__name__,
        base_model=base,
        description=f"Trained on images with captions by the {_LOSSES[args.loss]} loss{_image_term(args)}.",
        parameters={**_data(trainer), **_training(trainer)},
        command=command,
        evaluations=[] if results is None else [CardEvaluation("Results", [], results)],
        limits=[
            _FORGETTING,
            *([] if trainer.learner.own_bias is None else [_OWN_BIAS]),
            *([_OWN_TEMPERATURE] if is_adapter else []),
        ],
        tags=["contrastive-learning"],
    )


def _image_term(args: Any) -> str:
    if not args.image_term_weight:
        return ""
    return f", plus {args.image_term_weight:g} times the SimCLR loss of two views of the images"


def _data(trainer: Any) -> dict[str, Any]:
    source = getattr(trainer.train_dataset, "source", None)
    if source is None:
        return {"data": "a data set of the trainer's caller"}
    n_captions = sum(map(len, source.texts))
    return {
        "data": f"{len(source):,} images of {Path(source.name).name} with {n_captions:,} captions",
        "fingerprint of the data": source.fingerprint(),
    }


def _training(trainer: Any) -> dict[str, Any]:
    args = trainer.args
    temperature = 1 / trainer.learner.encoder.logit_scale.item()
    versions = [f"hf_clipalign {hf_clipalign.__version__}", *(f"{name} {version(name)}" for name in _LIBRARIES)]
    return {
        "trained parameters": f"{sum(p.numel() for p in trainer.learner.parameters() if p.requires_grad):,}",
        "temperature": f"{temperature:.4g} ({args.temperature_mode})",
        "learning rate": args.learning_rate,
        "epochs": f"{trainer.state.epoch or 0:.4g}, {trainer.state.global_step:,} steps",
        "batch with common negatives": args.train_batch_size * args.world_size,
        "gradient accumulation": args.gradient_accumulation_steps,
        "seed": args.seed,
        "versions": versions,
    }
