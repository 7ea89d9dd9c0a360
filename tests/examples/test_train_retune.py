"""The example on a small part of the built-in set, and on features and labels in CheXpert's format."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel

from hf_clipalign import ClipAlignError
from hf_clipalign.data import from_dataset, load_mini
from hf_clipalign.features import extract_to_store
from hf_clipalign.hub import check_card

EXAMPLES = Path(__file__).parents[2] / "examples"
SCENARIOS = ["class-incremental", "label-incremental", "data-incremental"]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("train_retune")
    monkeypatch.setattr(module, "MINI_ROWS", 500)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def flags(folder: Path, *more: str) -> list[str]:
    settings = {"output_dir": folder, "num_train_epochs": 1, "report_to": "none"}
    quiet = {"disable_tqdm": "true", "use_cpu": "true", "logging_strategy": "no"}
    return [word for name, value in {**settings, **quiet}.items() for word in (f"--{name}", str(value))] + list(more)


@pytest.mark.slow
def test_matrices_bounds_adapters_and_report(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--n_parts", "2", "--resamples", "20")
    results = example.main(flags(tmp_path, *few))
    assert [result.scenario for result in results] == SCENARIOS
    assert [result.matrix("auroc").shape for result in results] == [(5, 5), (5, 5), (2, 5)]
    printed = capsys.readouterr().out
    assert printed.count("joint training") == 3
    for name in SCENARIOS:
        assert f"{name}: every finding after the last task" in printed
        assert re.search(rf"^{name}: (The plain baseline|RE-tune) .*(linear probe|zero-shot)", printed, re.M)
    assert "linear probe" in printed
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6
    assert page.count("Each finding after") == 3
    assert "not for diagnosis" in page
    assert {f"{name}-auroc.png" for name in SCENARIOS} <= {path.name for path in tmp_path.iterdir()}
    for name in [*SCENARIOS, "joint"]:
        check_card((tmp_path / name / "README.md").read_text(encoding="utf-8"))
        loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(load_mini().student_path), tmp_path / name)
        assert sum(p.numel() for n, p in loaded.named_parameters() if "clip_retune" in n) == 2 * (4 * 128**2 + 3 * 128)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "student").symlink_to(load_mini().student_path)  # what the card says in the place of a Hub id
    load_mini().emoji_subset(split="novel")[0]["image"].convert("RGB").save("image.jpg")
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "joint" / "README.md").read_text(encoding="utf-8"), re.S)
    for first in (blocks[0], blocks[0] + blocks[1]):  # by PEFT, by stock transformers
        exec(first + blocks[2], {})
        assert "'animal': 0." in capsys.readouterr().out
    with pytest.raises(ClipAlignError, match="was learned already"):
        example.main(flags(tmp_path, *few))
    again = example.main(flags(tmp_path, "--resume", *few))
    assert again == results


def test_findings_overlap_and_concepts_are_apart(example: Any) -> None:
    parts = [example.mini_labels(split)[1] for split in ("train", "novel")]
    values = parts[0].values
    assert (values.sum(axis=1) > 1).sum() > 3
    assert (values.sum(axis=1) == 0).any()
    assert not set(parts[0].patients) & set(parts[1].patients)


def test_own_features_with_labels_in_chexperts_format(example: Any, tmp_path: Path) -> None:
    mini = load_mini()
    source = from_dataset(mini.emoji_subset(split="novel").select(range(40)))
    extract_to_store(mini.student, source, mini.student_processor, tmp_path / "features", progress=False)
    values = np.random.default_rng(0).integers(-1, 2, size=(40, 2))
    rows = [f"{name},{a},{b}" for name, (a, b) in zip(source.ids, values, strict=True)]
    for name, part in (("labels", rows[15:]), ("test", rows[:15])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["Path,Edema,Fracture", *part]))
    (tmp_path / "prompts.json").write_text(
        '{"Edema": {"positive": ["wet"], "negative": ["dry"]}, "Fracture": {"positive": ["bone"], "negative": ["no"]}}'
    )
    features, labels = str(tmp_path / "features"), str(tmp_path / "labels.csv")
    own = ["--model", str(mini.student_path), "--features", features, "--labels", labels]
    own += [
        "--test_features",
        features,
        "--test_labels",
        str(tmp_path / "test.csv"),
        "--findings",
        "Edema",
        "Fracture",
    ]
    own += ["--prompts", str(tmp_path / "prompts.json"), "--scenarios", "class-incremental", "--uncertain", "ones"]
    (result,) = example.main(flags(tmp_path / "run", *own))
    assert result.findings == ["Edema", "Fracture"]
    assert result.tasks == ["Edema", "Fracture"]
    own[own.index("--test_labels") + 1] = labels
    with pytest.raises(ClipAlignError, match="25 of 25 test images were seen in training"):
        example.main(flags(tmp_path / "again", *own))


def test_bad_flags(example: Any, run_example: Any, tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match="--labels and --test_features"):
        example.main(flags(tmp_path, "--features", "x", "--model", "y"))
    for flag in ("--labels", "--model", "--prompts"):
        with pytest.raises(ClipAlignError, match=r"own data need .*--features"):
            example.main(flags(tmp_path, flag, "x"))
    with pytest.raises(SystemExit, match=r"^error: own data need --model.*$"):
        run_example("train_retune.py", "--features", "x")
