"""What of a RE-tune run may leave the machine, whichever folder of it is pushed."""

from __future__ import annotations

import json
from pathlib import Path

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.hub.cards import on_hub

CONFIG_FILE, STATE_FILE = "adapter_config.json", "retune.json"
PROMPTS_FILE, METRICS_FILE, CARD_FILE = "prompts.json", "metrics.json", "README.md"
PUSHED = (CONFIG_FILE, "adapter_model.safetensors", PROMPTS_FILE, METRICS_FILE, CARD_FILE)
"""All that a push uploads."""

NOT_FOR_DIAGNOSIS = "Research software: not a medical device, not for diagnosis or any decision about a patient."
LIMITS = (
    NOT_FOR_DIAGNOSIS,
    "Scores are cosines, not probabilities: choose thresholds on data of your own.",
    "Trained and tested on the data named above only; other scanners, hospitals and populations were not measured.",
)
RETUNE_TYPE = "CLIP_RETUNE"


def retune_files(folder: Path) -> dict[str, Path] | None:
    """What may be pushed of a folder, by its path in the repository; None where it has nothing of RE-tune.

    Args:
        folder (`Path`): any folder: a run's output folder, the adapter after a task, or something else.

    Raises:
        `ClipAlignError`: runs lie below the folder but no adapter in it, or the adapter's base model is a folder on
            this machine.
    """
    if _is_adapter(folder / CONFIG_FILE):
        base = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path")
        if base and not on_hub(base):
            raise ClipAlignError(
                f"the adapter's base model {base!r} is not on the Hub, so nobody else could load it: push by "
                f"trainer.push_to_hub(base_model='owner/name'), or write its Hub id into {folder / CONFIG_FILE}."
            )
        return {name: folder / name for name in PUSHED if (folder / name).is_file()}
    inside = (file for name in (STATE_FILE, CONFIG_FILE) for file in sorted(folder.rglob(name)))
    run = next((file.parent for file in inside if file.name == STATE_FILE or _is_adapter(file)), None)
    if run is not None:
        raise ClipAlignError(
            f"{str(folder)!r} holds a run of RE-tune ({run}), of which nothing but the adapter may be uploaded: give "
            f"the folder that has its {CONFIG_FILE}."
        )
    return None


def _is_adapter(file: Path) -> bool:
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("peft_type") == RETUNE_TYPE
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
