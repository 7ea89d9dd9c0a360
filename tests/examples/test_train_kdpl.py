"""The example on small parts of the built-in set and on folders: what it prints, saves and refuses."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

from hf_clipalign import ClipAlignError
from hf_clipalign._io.masking import mask
from hf_clipalign.data import base_and_novel, from_dataset, load_mini
from hf_clipalign.hub import check_card

EXAMPLES = Path(__file__).parents[2] / "examples"
PARTS = ["seen classes", "unseen classes", "unseen domain"]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("train_kdpl")
    monkeypatch.setattr(module, "MINI_CLASSES", 24)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def flags(folder: Path, *more: str) -> list[str]:
    settings = {"output_dir": folder, "num_train_epochs": 1, "warmup_epochs": 0, "per_device_train_batch_size": 6}
    quiet = {"report_to": "none"} | {"disable_tqdm": "true", "use_cpu": "true"}
    return [word for name, value in {**settings, **quiet}.items() for word in (f"--{name}", str(value))] + list(more)


@pytest.mark.parametrize(
    ("method", "more", "row"),
    [
        ("coop", (), "coop (KDPL)"),
        ("maple", ("--labels",), "maple (labels)"),
        ("vpt", ("--class_agnostic", "--k_max", "20"), "vpt (KDPL, class names unknown)"),
    ],
)
def test_table_adapter_and_card(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture, method: str, more: tuple[str, ...], row: str
) -> None:
    if "--class_agnostic" in more:
        (tmp_path / "words.txt").write_text("\n".join(load_mini().concepts.known[:60]))
        more = (*more, "--dictionary", str(tmp_path / "words.txt"))
    folder = tmp_path / "run"
    table = example.main(flags(folder, "--method", method, *more))
    assert list(table.scores) == ["zero-shot student", "zero-shot teacher", row]
    assert table.tests == PARTS
    assert row.split(" (")[0] in capsys.readouterr().out

    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"| {' | '.join(cells)} |" in card for cells in table.cells())
    assert mask(table.note) in card
    assert str(tmp_path) not in card
    measured = {result.dataset_name: result.metric_value for result in check_card(card).eval_results}
    assert measured == {part: round(100 * table.mean(row, part), 2) for part in PARTS}
    assert f"--method {method}" in card
    assert example.mini_task(42).train.fingerprint() in card
    assert ("2407.03056" in card) == ("--labels" not in more)
    assert card.startswith("---\nlibrary_name: peft\n")

    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(load_mini().student_path), folder)
    assert sum(p.numel() for name, p in loaded.named_parameters() if ".default" in name) > 100


def test_classes_are_drawn_by_the_seed_and_halves_are_apart(example: Any) -> None:
    first, again, other = (example.mini_task(seed) for seed in (0, 0, 1))
    assert first.train.class_names == again.train.class_names != other.train.class_names
    seen, unseen, domain = (set(first.tests[part].class_names) for part in PARTS)
    assert not seen & unseen
    assert domain == seen
    assert len(seen) == len(unseen) == len(first.train) == 12


def test_a_second_run_gives_the_same_prompt(example: Any, tmp_path: Path) -> None:
    adapters = []
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(adapters))
        example.main(flags(tmp_path / run, "--method", "vpt", "--seed", str(seed)))
        adapters.append(load_file(tmp_path / run / "adapter_model.safetensors"))
    first, again, other = adapters
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def save_images(folder: Path, n_classes: int) -> None:
    source = from_dataset(load_mini().emoji_subset(split="train"), label_column="name")
    half, _ = base_and_novel(source)
    for row, label in enumerate(half.labels.tolist()):
        if label < n_classes:
            path = folder / half.class_names[label] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            half.read(row).save(path)


def test_folder_with_classes(example: Any, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 8)
    table = example.main(
        flags(tmp_path / "run", "--dataset", str(tmp_path / "images"), "--shots", "2", "--template", "an emoji of {}.")
    )
    assert table.tests == PARTS[:2]


def test_folder_without_classes_needs_a_dictionary(example: Any, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 4)
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (tmp_path / "images").rglob("*.png"):
        file.rename(flat / file.name)
    (tmp_path / "words.txt").write_text("\n".join(load_mini().concepts.known[:40]))
    run = flags(tmp_path / "run", "--dataset", str(flat), "--template", "an emoji of {}.")
    with pytest.raises(ClipAlignError, match="class_agnostic"):
        example.main(run)
    table = example.main([*run, "--class_agnostic", "--k_max", "10", "--dictionary", str(tmp_path / "words.txt")])
    assert not table.tests
    assert "class names unknown" in (tmp_path / "run" / "README.md").read_text()


def test_methods_have_their_published_settings_unless_told_otherwise(example: Any, tmp_path: Path) -> None:
    _, training = example.parse(["--method", "promptsrc", "--output_dir", str(tmp_path)])
    assert (training.learning_rate, training.num_train_epochs, training.gaussian_mean) == (0.0025, 20, 15.0)
    _, training = example.parse(["--method", "promptsrc", "--learning_rate", "0.1", "--output_dir", str(tmp_path)])
    assert training.learning_rate == 0.1


def test_bad_flags(example: Any, run_example: Any, tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match="no method 'lora'"):
        example.parse(["--method", "lora"])
    with pytest.raises(ClipAlignError, match="exclude each other"):
        example.parse(["--labels", "--class_agnostic", "--output_dir", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^error: no method 'lora'.*$"):
        run_example("train_kdpl.py", "--method", "lora")
