"""The script that makes the built-in models, for a few steps: data, growth, stages."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, CLIPModel

from hf_clipalign import ClipAlignError
from hf_clipalign.data import load_mini

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("pretrain_mini_clip")
    torch.set_num_threads(threads)


def flags(folder: Path, **settings: Any) -> list[str]:
    settings = {
        "output_dir": folder,
        "max_steps": 2,
        "per_device_train_batch_size": 16,
        "projector_steps": 3,
        "projector_images": 32,
        "report_to": "none",
        "disable_tqdm": "true",
        "use_cpu": "true",
        "logging_steps": 1,
        **settings,
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def icons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("icons") / "icons.parquet"
    load_mini().icons.select(range(0, 4937, 40)).to_parquet(file)
    return file


@pytest.mark.slow
def test_student_then_grown_teacher(
    example: Any, icons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = example.main(flags(tmp_path / "student", icons=icons))
    assert list(table.scores) == ["trained", "new projectors"]
    assert len(table.tests) == 2
    student = AutoModel.from_pretrained(tmp_path / "student")
    assert student.config.vision_config.num_hidden_layers == load_mini().student.config.vision_config.num_hidden_layers
    assert {name: p.shape for name, p in student.named_parameters()} == {
        name: p.shape for name, p in load_mini().student.named_parameters()
    }
    assert student.logit_scale.exp().item() == pytest.approx(100)
    processor = AutoProcessor.from_pretrained(tmp_path / "student")
    assert processor(text=["a cat"])["input_ids"] == load_mini().student_processor(text=["a cat"])["input_ids"]

    monkeypatch.setattr(example, "zero_shot_accuracy", lambda *args: 0.5)
    more = {"start": tmp_path / "student", "vision_layers": 7, "text_layers": 4, "image_size": 64}
    example.main(flags(tmp_path / "teacher", icons=icons, projector_steps=0, **more))
    teacher = AutoModel.from_pretrained(tmp_path / "teacher")
    assert {name: p.shape for name, p in teacher.named_parameters()} == {
        name: p.shape for name, p in load_mini().teacher.named_parameters()
    }
    assert (tmp_path / "teacher" / "README.md").is_file()


def test_growth_keeps_the_function(example: Any) -> None:
    small = load_mini().student
    sizes = example.ExampleArguments(image_size=48, vision_layers=7, text_layers=4)
    big = example.grown(small, sizes).eval()
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    inputs = load_mini().student_processor(text=["an emoji of cat", "dog"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected, found = (model(pixel_values=pixels, **inputs).logits_per_image for model in (small, big))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    assert big.config.vision_config.num_hidden_layers == 7
    assert sum(p.numel() for p in big.parameters()) > sum(p.numel() for p in small.parameters())

    sizes.image_size = 64
    wide = example.grown(small, sizes)
    positions = "vision_model.embeddings.position_embedding.weight"
    before, after = (model.state_dict()[positions] for model in (small, wide))
    assert after.shape == (65, 128)
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1:].mean(0), before[1:].mean(0), atol=0.2, rtol=0)
    with pytest.raises(ClipAlignError, match="has 5 layers and cannot be grown to 2"):
        example.grown(small, example.ExampleArguments(vision_layers=2))


def test_batches_hold_no_name_twice_and_the_share_of_emoji(example: Any, icons: Path) -> None:
    emoji = example.Images(load_mini().emoji_subset(split="train"), "emoji")
    collections = [emoji, example.open_icons(str(icons))]
    plan = example.plan_draws(collections, steps=5, batch=64, seed=3)
    again = example.plan_draws(collections, steps=5, batch=64, seed=3)
    assert np.array_equal(plan, again)
    for batch in plan:
        names = [collections[which].names[concept] for which, concept in batch]
        assert len(set(names)) == 64
        assert (batch[:, 0] == 0).sum() == int(64 * 0.43)
    alone = example.plan_draws([emoji], steps=50, batch=64, seed=3)[..., 1]
    assert all(len(set(batch.tolist())) == 64 for batch in alone)
    assert np.bincount(alone.ravel()).max() <= -(-50 // (len(emoji.names) // 64))
    with pytest.raises(ClipAlignError, match="icon names do not fill a batch"):
        example.plan_draws(collections, steps=1, batch=500, seed=0)


def test_draws_depend_on_their_number_only(example: Any, icons: Path) -> None:
    collections = [example.Images(load_mini().emoji_subset(split="train"), "emoji"), example.open_icons(str(icons))]
    plan = example.plan_draws(collections, steps=2, batch=32, seed=0)
    draws = example.Draws(collections, plan, load_mini().student_processor, strength=1.0, seed=0)
    first, again, other = draws[40], draws[40], draws[41]
    assert torch.equal(first["images"]["pixel_values"], again["images"]["pixel_values"])
    assert first["captions"] == again["captions"]
    assert not torch.equal(first["images"]["pixel_values"], other["images"]["pixel_values"])
    captions = [draws[index]["captions"][0] for index in range(64)]
    named = sum(draws.name(index) in caption for index, caption in enumerate(captions))
    assert 40 < named < 64


def test_views_stay_near_the_image_and_change_it(example: Any) -> None:
    image = load_mini().emoji[0]["image"].convert("RGBA")
    same = example.random_view(image, np.random.default_rng(0), strength=0.0)
    white = np.asarray(example.Image.alpha_composite(example.Image.new("RGBA", image.size, "white"), image))
    views = [example.random_view(image, np.random.default_rng(seed), strength=1.0) for seed in range(20)]
    assert same.shape == (64, 64, 3)
    assert same.dtype == np.uint8
    assert np.corrcoef(same.ravel(), white[..., :3].ravel())[0, 1] > 0.9
    assert len({view.tobytes() for view in views}) == 20


def test_a_folder_of_icons(example: Any, tmp_path: Path) -> None:
    for name in ("set/arrow-left.png", "set/house.png", "other/house.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        load_mini().icons[0]["image"].save(tmp_path / name)
    icons = example.open_icons(str(tmp_path))
    assert icons.names == ["arrow left", "house"]
    assert len(icons.rows["house"]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipAlignError, match="no icons"):
        example.open_icons(str(tmp_path / "empty"))


def test_a_new_model_is_of_the_students_size(example: Any) -> None:
    model = example.new_model(example.ExampleArguments(), load_mini().student_processor.tokenizer)
    assert isinstance(model, CLIPModel)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in load_mini().student.parameters())
