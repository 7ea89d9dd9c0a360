"""What of an incremental run may leave the machine: adapter, prompts, scores and a card."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hf_clipalign
from hf_clipalign._errors import ClipAlignError
from hf_clipalign._files import atomic_file
from hf_clipalign.hub.cards import CardEvaluation, ModelCardInfo, build_card, on_hub
from hf_clipalign.hub.push import push_folder
from hf_clipalign.hub.retune_folder import (
    CARD_FILE,
    CONFIG_FILE,
    LIMITS,
    METRICS_FILE,
    NOT_FOR_DIAGNOSIS,
    PROMPTS_FILE,
    PUSHED,
)

_LIBRARIES = ("torch", "transformers", "peft")
_HIDDEN = "…"
_NAMED = re.compile(r"-*\w[\w-]*=")
_PATH = re.compile(r"[/\\]|^~|\.[A-Za-z]\w*$")


def write_retune_files(trainer: Any, folder: Path) -> None:
    """Writes card, prompts and scores beside an adapter."""
    write_prompts(trainer, folder)
    _write(folder / CARD_FILE, str(build_card(_describe(trainer, folder))))
    if trainer.result is not None:
        _write(folder / METRICS_FILE, trainer.result.to_json())


def write_prompts(trainer: Any, folder: Path) -> None:
    """Writes the prompts of all findings beside an adapter."""
    _write(folder / PROMPTS_FILE, json.dumps(trainer.prompts.to_dict(), indent=1))


def push_retune(trainer: Any, repo_id: str | None, base_model: str | None, **push_kwargs: Any) -> Any:
    """Pushes `PUSHED` from a folder of its own: nothing else can slip in.

    Raises:
        `ClipAlignError`: no repository is named, the base model is a folder on this machine, or as `push_folder`.
    """
    if not repo_id:
        raise ClipAlignError("where to? Give repo_id='owner/name', or hub_model_id in the settings.")
    base = base_model or trainer.identity["model"]["name"]
    if not on_hub(base):
        raise ClipAlignError(
            f"the adapter's base model {base!r} is not on the Hub, so nobody else could load it: give "
            "base_model='owner/name'."
        )
    with tempfile.TemporaryDirectory(prefix="clipalign-") as name:
        folder = Path(name)
        trainer.learner.save_pretrained(name)
        config_file = folder / CONFIG_FILE
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config_file.write_text(json.dumps(config | {"base_model_name_or_path": base}, indent=2), encoding="utf-8")
        write_retune_files(trainer, folder)
        for path in folder.iterdir():  # the card comes from info, with the licence of the base model
            if path.name not in PUSHED or path.name == CARD_FILE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        info = replace(_describe(trainer, folder), base_model=base, load_from=repo_id)
        return push_folder(folder, repo_id, info=info, **push_kwargs)


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as staging:
        staging.write_text(text, encoding="utf-8")


def without_paths(command: str) -> str:
    """A command line without the user's folders and files: flags and values stay, a path becomes `…`.

    The paths of medical data name projects, hospitals and patients, so that not even the last part is told. A script
    keeps its name. A value is a path if it has a slash, a suffix as files have, or is there in the current folder.
    """
    try:
        words = shlex.split(command.replace("\\", "/"))
    except ValueError:  # an open quote: what is a path cannot be told
        return ""
    shown: list[str] = []
    is_program = True
    for word in words:
        name, equals, value = word.partition("=") if _NAMED.match(word) else ("", "", word)
        is_program = is_program and not word.startswith("-")
        is_first = all(before.endswith(f"={_HIDDEN}") for before in shown)
        if is_program and not equals and (is_first or word.endswith(".py")):
            shown.append(shlex.quote(Path(word).name))
        elif _PATH.search(value) or os.path.exists(value):
            shown.append(f"{name}{equals}{_HIDDEN}")
        else:
            shown.append(shlex.quote(word))
    return " ".join(shown)


def _describe(trainer: Any, folder: Path) -> ModelCardInfo:
    """All that the card says."""
    state, config, args = trainer.state_folder, trainer.learner.adapter_config, trainer.args
    base = str(trainer.identity["model"]["name"] or "")
    shown = base if on_hub(base) else Path(base).name or None
    learned = [entry["name"] for entry in state.tasks]
    here = list(dict.fromkeys(name for entry in state.tasks for name in entry["findings"]))
    measured = f", the scores after every task in `{METRICS_FILE}`" if trainer.result is not None else ""
    before = f" Findings learned before, in another run: {', '.join(state.before)}." if state.before else ""
    return ModelCardInfo(
        kind="adapter",
        name=f"RE-tune adapter: {', '.join(state.learned) or 'untrained'}",
        load_from=args.hub_model_id or folder.absolute().name,
        base_model=shown,
        method="retune",
        description=f"{NOT_FOR_DIAGNOSIS} Findings, learned in {len(learned)} task(s): {', '.join(here)}.{before} The "
        f"prompts are in `{PROMPTS_FILE}`{measured}.",
        parameters={
            "adapter": f"{config.adapter}, {config.sides}, d = {config.embed_dim}",
            "tasks in order": learned,
            "rows per task": [f"{entry['n_rows']:,}" for entry in state.tasks],
            "learning rate": args.learning_rate,
            "epochs per task": f"{args.num_train_epochs:g}",
            "batch": args.train_batch_size * args.world_size,
            "seed": args.seed,
            "uncertain and missing labels": [args.uncertain, args.missing],
            "versions": [f"hf_clipalign {hf_clipalign.__version__}", *(f"{n} {version(n)}" for n in _LIBRARIES)],
        },
        command=without_paths(trainer._command),
        needs_package=True,
        has_processor=False,
        evaluations=_evaluations(trainer),
        limits=LIMITS,
        tags=["multi-label", "incremental-learning"],
    )


def _evaluations(trainer: Any) -> list[CardEvaluation]:
    from huggingface_hub import EvalResult

    result = trainer.result
    if result is None or not result.tasks:
        return []
    name = trainer.eval_dataset.labels.name if trainer.eval_dataset is not None else "test data"
    dataset = Path(name).name
    scored = [
        name for name, score in zip(result.findings, result.scores["auroc"][-1], strict=True) if math.isfinite(score)
    ]
    over = "findings" if scored == result.findings else ", ".join(scored)
    measured = {"macro_auroc": f"AUROC, mean over {over}", "macro_f1": f"F1, mean over {over}"}
    own = [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type="".join(letter if letter.isalnum() or letter in "._" else "-" for letter in dataset),
            dataset_name=dataset,
            metric_type=key,
            metric_name=label,
            metric_value=round(result.means[-1][key], 4),
        )
        for key, label in measured.items()
        if math.isfinite(result.means[-1][key])
    ]
    return [CardEvaluation(f"{dataset}, after every task", own, result.table("auroc"), "")]
