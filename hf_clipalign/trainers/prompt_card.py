"""The model card of a learned prompt."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import hf_clipalign
from hf_clipalign._files import atomic_file
from hf_clipalign.trainers.papers import PAPERS

_LIBRARIES = ("torch", "transformers", "peft")


def write_prompt_card(trainer: Any, folder: str | Path, results: Any = None, command: str = "") -> Path:
    """Writes `README.md` beside an adapter.

    Args:
        trainer (`PromptLearningTrainer`): what trained it.
        folder (`str` or `Path`): where the adapter is.
        results (`ResultTable`, *optional*): the numbers to show.
        command (`str`): what was run. Default: none.

    Returns:
        `Path`: the card.
    """
    from huggingface_hub import ModelCardData

    method = trainer.learner.method.removeprefix("clip_")
    facts = _facts(trainer, method)
    base = trainer.learner.encoder.config._name_or_path
    data = ModelCardData(
        base_model=_hub_id(base),
        library_name="peft",
        pipeline_tag="zero-shot-image-classification",
        tags=["hf_clipalign", "clip", "prompt-learning", method, *(["kdpl"] if facts["teacher"] else [])],
    )
    environment = Environment(
        loader=PackageLoader("hf_clipalign.trainers", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    text = environment.get_template("prompt_card.md.jinja").render(
        **facts,
        adapter=trainer.args.hub_model_id or Path(folder).name,
        results=results.to_markdown() if results is not None else "",
        command=command,
        papers=[PAPERS[method], *([PAPERS["kdpl"]] if facts["teacher"] else [])],
    )
    path = Path(folder) / "README.md"
    with atomic_file(path) as staging:
        staging.write_text(f"---\n{data.to_yaml()}\n---\n\n{text}", encoding="utf-8")
    return path


def _facts(trainer: Any, method: str) -> dict[str, Any]:
    args, learner = trainer.args, trainer.learner
    source = getattr(trainer.train_dataset, "source", None)
    teacher = getattr(trainer, "teacher", None)
    agnostic = bool(getattr(args, "class_agnostic", False))
    base = _shown(learner.encoder.model)
    kept = f"{len(trainer.class_names):,} concepts of a dictionary, {getattr(args, 'k_max', 0):,} kept per step"
    return {
        "title": f"{PAPERS[method].name}{' + KDPL' if teacher else ''} prompt for {Path(base).name}",
        "method": PAPERS[method].name,
        "n_parameters": sum(p.numel() for p in learner.parameters() if p.requires_grad),
        "base_model": base,
        "template": args.template,
        "data": f"{len(source):,} pictures of {Path(source.name).name}" if source is not None else "tensors",
        "fingerprint": source.fingerprint() if source is not None else "",
        "classes": kept if agnostic else f"{len(trainer.class_names):,}",
        "class_agnostic": agnostic,
        "teacher": _shown(teacher.model) if teacher else "",
        "teacher_parameters": teacher.n_parameters if teacher else 0,
        "teacher_template": trainer.teacher_template if teacher else "",
        "learning_rate": args.learning_rate,
        "epochs": f"{args.num_train_epochs:g}",
        "batch": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "seed": args.seed,
        "versions": ", ".join(
            [f"hf_clipalign {hf_clipalign.__version__}", *(f"{name} {version(name)}" for name in _LIBRARIES)]
        ),
    }


def _shown(model: Any) -> str:
    """The model's Hub id; the name of its folder where it is local: paths of this machine tell others nothing."""
    name = model.config._name_or_path
    return _hub_id(name) or Path(name).name or type(model).__name__


def _hub_id(name: str) -> str | None:
    """The base model where it is on the Hub; a local folder means nothing to others."""
    return name if name.count("/") == 1 and not Path(name).exists() else None
