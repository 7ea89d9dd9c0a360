"""Examples under two processes: what is shown is shown once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import launch

SCRIPT = Path(__file__).with_name("run_example.py")
QUIET = ("--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true", "--logging_strategy", "no")
SHORT = ("--num_train_epochs", "1", "--save_strategy", "no")
PROMPTS = ("--warmup_epochs", "0", "--per_device_train_batch_size", "3")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "flags", "once"),
    [
        ("train_kdpl", ("--method", "vpt", *PROMPTS), ("zero-shot teacher", "Adapter and model card", "vpt (KDPL)")),
        (
            "train_retune",
            ("--scenarios", "data-incremental", "--n_parts", "2", "--resamples", "20"),
            ("joint training", "every finding after the last task", "Report: "),
        ),
        (
            "sweep_prompts",
            ("--methods", "vpt", "--modes", "labels", "--seeds", "1", "--output", "OUT", "--", *PROMPTS),
            ("zero-shot teacher", "vpt (labels)"),
        ),
    ],
)
def test_two_processes_print_one_table(
    example: str, flags: tuple[str, ...], once: tuple[str, ...], tmp_path: Path
) -> None:
    own = () if "OUT" in flags else ("--output_dir", str(tmp_path / "out"))
    given = (str(tmp_path / "out") if flag == "OUT" else flag for flag in flags)
    printed = launch(SCRIPT, example, *given, *own, *SHORT, *QUIET, processes=2)
    assert {text: printed.count(text) for text in once} == dict.fromkeys(once, 1)
