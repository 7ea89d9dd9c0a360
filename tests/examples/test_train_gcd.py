"""The example on small parts of the built-in set and on folders: what it prints, saves and refuses."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModel

from hf_clipalign import ClipAlignError
from hf_clipalign.data import load_mini, read_image
from hf_clipalign.gcd import ClassCountEstimate, SpectralGCDModel
from hf_clipalign.hub import check_card

EXAMPLES = Path(__file__).parents[2] / "examples"
CONCEPTS = ("bird", "owl", "duck", "beer", "teacup", "heart", "broken heart", "hammer", "wrench", "axe", "sun", "moon")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("train_gcd")
    monkeypatch.setattr(module, "MINI_CLASSES", ("animal-bird", "drink", "heart", "tool"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


def flags(folder: Path, *more: str) -> list[str]:
    (folder / "words.txt").write_text("\n".join(CONCEPTS))
    settings = {
        **{"output_dir": folder / "run", "dictionary": folder / "words.txt", "num_train_epochs": 1, "use_cpu": "true"},
        **{"per_device_train_batch_size": 16, "report_to": "none", "disable_tqdm": "true"},
        **{"hidden_size": 16, "mlp_hidden_size": 16, "bottleneck_size": 8, "teacher_cache": folder / "t.safetensors"},
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))] + list(more)


def test_table_gallery_model_and_card(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = example.main(flags(tmp_path))
    assert list(table.scores) == [
        "k-means on student features",
        "k-means on teacher features",
        "semi-supervised k-means on teacher features",
        "SpectralGCD",
    ]
    assert table.tests == ["All", "Old", "New"]
    assert all(0 <= table.mean(method, test) <= 1 for method in table.scores for test in table.tests)
    assert "SpectralGCD" in capsys.readouterr().out
    run = tmp_path / "run"
    assert '<div class="group">' in (run / "gallery.html").read_text()
    text = (run / "README.md").read_text()
    assert check_card(text).pipeline_tag == "image-classification"
    assert "launch train_gcd.py" in text
    assert "| SpectralGCD |" in text
    loaded = AutoModel.from_pretrained(run)
    assert isinstance(loaded, SpectralGCDModel)
    assert loaded.config.n_novel == 2
    assert loaded.overall_profile.any()
    assert (tmp_path / "t.safetensors").is_file()


@pytest.mark.slow
def test_all_concepts_and_no_teacher(example: Any, tmp_path: Path) -> None:
    table = example.main(flags(tmp_path, "--no_filter", "--distillation_weight", "0", "--seed", "1"))
    loaded = AutoModel.from_pretrained(tmp_path / "run")
    assert set(CONCEPTS) <= set(loaded.config.concepts)
    assert "SpectralGCD" in table.scores


def test_a_partly_labelled_folder(example: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mini = load_mini()
    emoji = mini.emoji_subset(styles="noto")
    for kind, folder, count in (("animal-bird", "bird", 6), ("heart", "heart", 6), ("tool", "unlabelled", 10)):
        rows = [row for row, name in enumerate(emoji["subgroup"]) if name == kind][:count]
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for row in rows:
            read_image(emoji[row]["image"]).save(tmp_path / "photos" / folder / f"{row}.png")
    models = ("--student", str(mini.student_path), "--teacher", str(mini.teacher_path))
    own = ("--dataset", str(tmp_path / "photos"), *models, "--template", "an emoji of {}.")
    estimated = example.main(flags(tmp_path, *own))
    assert not estimated.scores
    assert AutoModel.from_pretrained(tmp_path / "run").config.n_novel >= 0
    assert "2 known" in capsys.readouterr().out
    table = example.main(flags(tmp_path, *own, "--n_novel", "1"))
    assert not table.scores
    assert AutoModel.from_pretrained(tmp_path / "run").config.class_names == ["bird", "heart"]
    assert 'class="relevant"' not in (tmp_path / "run" / "gallery.html").read_text()
    assert "gallery is" in capsys.readouterr().out


def test_an_estimate_without_novel_classes_is_taken_with_a_warning(
    example: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    estimates = [ClassCountEstimate(2, 2, {2: 1.0, 3: 0.5}), ClassCountEstimate(1, 1, {1: 1.0})]
    monkeypatch.setattr("hf_clipalign.trainers.gcd.preparation.estimate_n_classes", lambda *_, **__: estimates.pop(0))
    split = SimpleNamespace(
        has_truth=False, training_labels=None, labelled=None, source=SimpleNamespace(name="photos")
    )
    own = example.ExampleArguments()
    assert example.count_novel(own, split, torch.zeros(3, 2)) == 0
    assert "photos: the labelled images speak for no novel class beside the 2 known ones" in caplog.text
    assert example.count_novel(own, split, torch.zeros(3, 2)) == 1
    own.n_novel = 4
    assert example.count_novel(own, split, torch.zeros(3, 2)) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--dataset", "photos"), "--student and --teacher"),
        (("--preset", "mnist"), "there are cifar10"),
        (("--crop_share", "2"), "crop_share"),
    ],
)
def test_bad_flags(example: Any, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    with pytest.raises(ClipAlignError, match=message):
        example.main(flags(tmp_path, *more))


def test_published_settings_of_a_preset(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ("--student", "a/b", "--teacher", "c/d")
    own, training = example.parse(["--dataset", "x", *models, "--preset", "CUB", "--output_dir", str(tmp_path)])
    assert own.template == "a photo of a {}, a type of bird."
    assert (training.mean_entropy_weight, training.num_train_epochs, training.learning_rate) == (2.0, 200, 0.1)
    assert (own.hidden_size, own.mlp_hidden_size, own.bottleneck_size) == (768, 2048, 256)
    prompts: list[str] = []

    class Features:
        images, texts = torch.rand(6, 4), torch.rand(len(CONCEPTS) + 1, 4)

        def text_features(self, given: list[str]) -> torch.Tensor:
            prompts.extend(given)
            return self.texts

        def of_concepts(self, rows: Any) -> Any:
            return self

    split = SimpleNamespace(class_names=["zebra"], source=None)
    monkeypatch.setattr("hf_clipalign.trainers.gcd.preparation.teacher_concepts", lambda *_, **__: Features())
    example.filter_concepts(split, Features(), CONCEPTS, own.template, filter_template=example.PLAIN_TEMPLATE)
    assert prompts[-1] == "a photo of a zebra ."
    assert example._known("3") == 3
    assert example._known("0.5") == 0.5
    assert example._known("cat, dog") == ["cat", "dog"]
