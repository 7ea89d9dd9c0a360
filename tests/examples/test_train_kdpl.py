"""The example on small parts of the built-in set and on folders: what it prints, saves and refuses."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, CLIPModel, pipeline

from hf_clipalign import ClipAlignError
from hf_clipalign._io.masking import mask
from hf_clipalign.data import base_and_novel, from_dataset, load_mini, take
from hf_clipalign.evaluation import zero_shot_logits
from hf_clipalign.hub import check_card
from tests.versions import loads_by_transformers

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


TEMPLATE = ("--template", "an emoji of {}.")


def flatten(folder: Path, flat: Path) -> list[str]:
    """Moves the images of a folder of classes into one; their class names."""
    flat.mkdir()
    names = sorted(path.name for path in folder.iterdir())
    for file in folder.rglob("*.png"):
        file.rename(flat / file.name)
    return names


def test_a_labelled_folder_is_learned_with_all_classes_and_tested_on_other_images(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save_images(tmp_path / "images", 8)
    run = flags(tmp_path / "run", "--dataset", str(tmp_path / "images"), *TEMPLATE, "--shots", "2", "--seed", "5")
    outcome = example.run(run)
    task = outcome.task
    assert task.train.class_names == task.tests["held-out images"].class_names
    assert len(set(task.train.labels.tolist())) == 8
    assert not set(task.train.ids) & set(task.held_out.ids)
    assert np.bincount(task.train.labels).tolist() == [2] * 8
    assert outcome.table.seeds == [5]
    assert "plain student: accuracy" in str(outcome.verdict)
    assert str(outcome.verdict) in (tmp_path / "run" / "README.md").read_text()
    assert PeftConfig.from_pretrained(tmp_path / "run").template == outcome.trainer.learner.template

    protocol = example.own_task(*example.parse([*run, "--protocol", "base_to_novel"]))
    assert len(protocol.train.class_names) == 4
    assert list(protocol.tests) == PARTS[:2]
    assert not set(protocol.train.class_names) & set(protocol.tests["unseen classes"].class_names)


def test_unlabelled_test_images_are_judged_by_agreement_with_the_teacher(example: Any, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 4)
    flatten(tmp_path / "images", tmp_path / "flat")
    save_images(tmp_path / "images", 4)
    run = flags(tmp_path / "run", "--dataset", str(tmp_path / "images"), "--test_dataset", str(tmp_path / "flat"))
    outcome = example.run([*run, *TEMPLATE])
    assert not outcome.task.tests
    assert "agreement only, not accuracy" in str(outcome.verdict)
    with pytest.raises(ClipAlignError, match=r"no labels, and --labels has no teacher to agree with"):
        example.run([*run, "--labels"])


def test_the_papers_split_of_the_images_is_read(example: Any, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 4)
    files = sorted(path.relative_to(tmp_path / "images").as_posix() for path in tmp_path.rglob("*.png"))
    names = sorted({file.split("/")[0] for file in files})
    rows = [[file, names.index(file.split("/")[0]), file.split("/")[0]] for file in files]
    split = tmp_path / "split_zhou_Emoji.json"
    split.write_text(json.dumps({"train": rows[::2], "val": [], "test": rows[1::2]}))
    own = flags(tmp_path / "run", "--dataset", str(tmp_path / "images"), "--split_file", str(split))
    task = example.own_task(*example.parse(own))
    assert task.train.ids == files[::2]
    assert task.tests["held-out images"].ids == files[1::2]


def test_a_flat_folder_without_names_says_what_to_type(example: Any, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 2)
    flatten(tmp_path / "images", tmp_path / "flat")
    own = flags(tmp_path / "run", "--dataset", str(tmp_path / "flat"))
    with pytest.raises(ClipAlignError, match=r'has no labels: .* --class_names "a, b", .* --class_agnostic'):
        example.run(own)
    assert example.own_task(*example.parse([*own, "--class_agnostic"])).class_names is None


@loads_by_transformers
def test_flat_folder_and_names_become_an_adapter_for_the_stock_pipeline(example: Any, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 4)
    names = flatten(tmp_path / "images", tmp_path / "flat")
    (tmp_path / "flat" / "broken.png").write_bytes(b"no image")
    run = flags(tmp_path / "run", "--dataset", str(tmp_path / "flat"), *TEMPLATE, "--skip_unreadable", "true")
    outcome = example.run([*run, "--class_names", ",".join(names), "--holdout", "0.3", "--augment", "false"])
    assert "agreement only, not accuracy" in str(outcome.verdict)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "agreement only, not accuracy" in card
    assert f"hypothesis_template={outcome.trainer.learner.template!r}" in card.replace('"', "'")
    assert "export_vocabulary" in card

    image = outcome.task.held_out.read(0)
    template = PeftConfig.from_pretrained(tmp_path / "run").template
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path / "run"), device="cpu")
    found = {item["label"]: item["score"] for item in classify(image, names, hypothesis_template=template)}
    one = take(outcome.task.held_out, [0])
    cosines = zero_shot_logits(outcome.trainer.peft_model, load_mini().student_processor, one, names)
    scale = load_mini().student.logit_scale.exp().item()
    expected = (scale * cosines).softmax(dim=-1)[0]
    assert [found[name] for name in names] == pytest.approx(expected.tolist(), abs=1e-3)


def test_folder_without_class_names_needs_a_dictionary(example: Any, tmp_path: Path) -> None:
    save_images(tmp_path / "images", 4)
    flatten(tmp_path / "images", tmp_path / "flat")
    (tmp_path / "words.txt").write_text("\n".join(load_mini().concepts.known[:40]))
    run = flags(tmp_path / "run", "--dataset", str(tmp_path / "flat"), *TEMPLATE)
    with pytest.raises(ClipAlignError, match="class_agnostic"):
        example.main(run)
    table = example.main([*run, "--class_agnostic", "--k_max", "10", "--dictionary", str(tmp_path / "words.txt")])
    assert not table.tests
    assert "class names unknown" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--protocol", "open"], "no protocol 'open'"),
        (["--protocol", "cross_dataset"], "go together"),
        (["--holdout", "1.5"], "--holdout is 1.5"),
        (["--holdout", "some"], "invalid float value"),
        (["--sede", "3"], "unknown flag '--sede'"),
        (["--save_strategy", "sometimes"], "sometimes"),
        (["--num_train_epochs", "1", "--warmup_epochs", "1"], "would be warm-up at 1e-05"),
        (["--split_file", "split.json"], "built-in set has its own split"),
    ],
)
def test_bad_flags_are_one_line(example: Any, wrong: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match=message) as refused:
        example.parse([*flags(tmp_path), *wrong])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("protocol", "depth"), [("base_to_novel", 9), ("cross_dataset", 3), ("domain", 3)])
def test_promptsrc_is_as_deep_as_the_protocol_says(example: Any, protocol: str, depth: int, tmp_path: Path) -> None:
    targets = [] if protocol == "base_to_novel" else ["--targets", "other"]
    own = ["--method", "promptsrc", "--dataset", str(tmp_path), "--protocol", protocol, *targets]
    arguments, training = example.parse([*own, "--output_dir", str(tmp_path)])
    assert training.gaussian_mean == (15.0 if depth == 9 else 6.0)
    shape = copy.deepcopy(load_mini().student.config)
    shape.text_config.num_hidden_layers = shape.vision_config.num_hidden_layers = 10
    shape.name_or_path = str(load_mini().student_path)
    student = CLIPModel(shape)
    config = example.add_prompts(student, load_mini().student_processor, arguments).peft_config["default"]
    assert (config.text_depth, config.image_depth) == (depth, depth)


def test_the_hub_is_asked_before_training(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "build_trainer", lambda *given: pytest.fail("trained first"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    push = [*flags(tmp_path), "--push_to_hub", "true"]
    with pytest.raises(ClipAlignError, match="where to push"):
        example.run(push)
    with pytest.raises(ClipAlignError, match="no Hub token"):
        example.run([*push, "--hub_model_id", "me/prompt"])


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
