"""Trains a small CLIP of emoji and icons from nothing: how the models that come with the package were made.

    python examples/pretrain_mini_clip.py

is a SHORT run (five minutes on one core) on the built-in emoji alone, to see that it learns. The shipped models also
saw icons, which do not travel with the package: 151,545 images of 160 sets, drawn at 64 pixels from the npm package
@iconify/json 2.2.535 (`hf_clipalign/assets/mini/licences.tsv` lists them). `--icons` takes such images as a parquet
file with the columns image and name (and, if there are, style, categories, aliases, as in `icons_heldout.parquet`), or
as a folder `set/icon-name.png`. With them, this is the recipe, on a few cores a matter of hours for each line:

    python examples/pretrain_mini_clip.py --icons icons.parquet --output_dir runs/student --bf16 --max_steps 6946 \
        --warmup_steps 150 --save_strategy steps --save_steps 500 --save_total_limit 20 --projector_steps 1500 \
        --projector_images 27000
    python examples/pretrain_mini_clip.py --icons icons.parquet --output_dir runs/grown --bf16 --max_steps 3151 \
        --start runs/student/checkpoint-2500 --vision_layers 7 --text_layers 4 --warmup_steps 150 \
        --learning_rate 8e-4 --projector_steps 0
    python examples/pretrain_mini_clip.py --icons icons.parquet --output_dir runs/teacher --bf16 --max_steps 1127 \
        --start runs/grown --image_size 64 --vision_layers 7 --text_layers 4 --warmup_steps 150 \
        --learning_rate 4.5e-4 --projector_steps 1500 --projector_images 27000

Stages: the towers (symmetric contrastive loss, learned temperature); growth of a smaller model by layers that do
nothing yet and by interpolated positions; new projectors on frozen towers at a fixed scale of 100.

What is not the same as for the shipped weights, so that a run gives a model of that kind and not these very weights:
they followed the wall clock (cosine over hours, the student in two such runs of 4,452 and 2,494 steps, the teacher
with a rate that ended at 4e-4 in its first part), saw seven further emoji styles, and captions cut at 16 tokens;
images were changed in batches, by other code with the same ranges; the tokenizer, taken from the package here, was
trained on the same texts first. Icons named like a novel emoji, and icons nearly equal to a held-out image, were
left out beforehand: whoever prepares the icons has to do it again.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, SequentialSampler
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, HfArgumentParser, set_seed

from hf_clipalign import ClipAlignError
from hf_clipalign.backbones import as_dual_encoder, tokenize
from hf_clipalign.data import IMAGE_EXTENSIONS, from_dataset, load_mini, take
from hf_clipalign.evaluation import ResultTable, zero_shot_accuracy
from hf_clipalign.losses import contrastive_loss
from hf_clipalign.trainers import ContrastiveTrainer, ContrastiveTrainingArguments, collate_pairs

SIDE = 64
EMOJI_SHARE = 0.43
ICON_POWER = 0.5
PROJECTOR_SCALE = 100.0
PROJECTOR_AUGMENTATION = 0.5
DEFAULTS = {
    "output_dir": "mini-clip",
    "max_steps": 150,
    "per_device_train_batch_size": 256,
    "learning_rate": 1e-3,
    "warmup_steps": 75,  # with a short one, all images and texts collapse into one point
    "temperature": 0.07,
    "logging_steps": 10,
    "save_strategy": "no",
}


@dataclass
class ExampleArguments:
    """Options of the example itself."""

    icons: str | None = field(default=None, metadata={"help": "Parquet file or folder of icons; by default none."})
    start: str | None = field(default=None, metadata={"help": "Checkpoint to grow and train on; by default random."})
    image_size: int = field(default=48, metadata={"help": "Side of the images in pixels."})
    vision_layers: int = field(default=5, metadata={"help": "Layers of the image tower."})
    text_layers: int = field(default=3, metadata={"help": "Layers of the text tower."})
    augmentation: float = field(default=0.7, metadata={"help": "Strength of the random changes of images."})
    projector_steps: int = field(default=150, metadata={"help": "Steps of the projector stage; 0 leaves it out."})
    projector_images: int = field(default=4096, metadata={"help": "Images of the projector stage."})
    projector_batch: int = field(default=512, metadata={"help": "Pairs in a step of the projector stage."})
    projector_rate: float = field(default=2e-3, metadata={"help": "Learning rate of the projector stage."})


class Images:
    """Images by concept, with captions drawn anew each time.

    Args:
        dataset (`datasets.Dataset`): an image and a name per row.
        kind (`str`): "emoji" or "icon".
    """

    def __init__(self, dataset: datasets.Dataset, kind: str):
        self.images = dataset.select_columns(["image"])
        self.kind = kind
        self.texts = dataset.remove_columns("image").to_list()
        self.rows: dict[str, list[int]] = {}
        for row, texts in enumerate(self.texts):
            self.rows.setdefault(texts["name"], []).append(row)
        self.names = sorted(self.rows)

    def image(self, row: int) -> Image.Image:
        """One image with its transparency."""
        return self.images[row]["image"].convert("RGBA")

    def caption(self, row: int, draw: np.random.Generator) -> str:
        """The name in one of several forms, alone or with what else is known."""
        texts = self.texts[row]
        name, style = texts["name"], texts.get("style") or ""
        more = [*(texts.get("keywords") or []), *(texts.get("aliases") or []), *(texts.get("categories") or [])]
        some = [more[i] for i in draw.permutation(len(more))[: draw.integers(1, 4)]]
        chance = draw.random()
        if some and chance < 0.35:
            return f"an {self.kind} of {', '.join([name, *some])}"
        if some and chance < 0.5:
            return str(draw.choice([f"an {self.kind} of ", "a picture of ", ""])) + ", ".join(some)
        styled = f"a {style} {self.kind} of {name}" if style else f"an {self.kind} of {name}"
        return str(draw.choice([styled, f"an {self.kind} of {name}", f"a picture of {name}", name]))


class Draws(Dataset):
    """One pair for every place in every batch of a run; no batch holds the same name twice.

    A draw depends on the seed and on its number only, so that workers, processes and resumed runs agree.
    """

    def __init__(self, collections: Sequence[Images], plan: np.ndarray, processor: Any, strength: float, seed: int):
        self.collections, self.plan = collections, plan.reshape(-1, 2)
        self.image_processor = processor.image_processor
        self.strength, self.seed = strength, seed

    def __len__(self) -> int:
        return len(self.plan)

    def name(self, index: int) -> str:
        """What the image of a draw is called."""
        which, concept = self.plan[index]
        return self.collections[which].names[concept]

    def __getitem__(self, index: int) -> dict[str, Any]:
        draw = np.random.default_rng((self.seed, int(index)))
        which, concept = (int(number) for number in self.plan[index])
        images = self.collections[which]
        row = int(draw.choice(images.rows[images.names[concept]]))
        view = random_view(images.image(row), draw, self.strength)
        pixels = self.image_processor(images=[view], input_data_format="channels_last", return_tensors="pt")
        return {
            "images": {"pixel_values": pixels["pixel_values"][0]},
            "captions": [images.caption(row, draw)],
            "group": int(index),
        }


def plan_draws(collections: Sequence[Images], steps: int, batch: int, seed: int) -> np.ndarray:
    """Which concept of which collection stands where, `[steps, batch, 2]`.

    Emoji concepts come in turn, each turn in another order. Icon names are drawn with a weight of (number of
    images)^0.5, without the names of the batch's emoji.

    Raises:
        `ClipAlignError`: fewer names than places in a batch.
    """
    emoji, *icons = collections
    n_emoji = int(batch * EMOJI_SHARE) if icons else batch
    draw = np.random.default_rng((seed, 1))
    for images, needed in ((emoji, n_emoji), *((one, batch) for one in icons)):
        if len(images.names) < needed:
            raise ClipAlignError(f"{len(images.names)} {images.kind} names do not fill a batch: lower the batch")
    plan = np.empty((steps, batch, 2), dtype=np.int64)
    plan[:, :n_emoji, 0] = 0
    per_turn = len(emoji.names) // n_emoji
    for step in range(0, steps, per_turn):
        turn = draw.permutation(len(emoji.names))[: per_turn * n_emoji].reshape(per_turn, n_emoji)
        plan[step : step + per_turn, :n_emoji, 1] = turn[: steps - step]
    for images in icons:
        used = [[emoji.names[concept] for concept in row] for row in plan[:, :n_emoji, 1]]
        plan[:, n_emoji:, 0], plan[:, n_emoji:, 1] = 1, _draw_icons(images, used, draw, batch)
    return plan


def _draw_icons(images: Images, used: list[list[str]], draw: np.random.Generator, batch: int) -> list[list[int]]:
    """For each batch the names that fill it, without those that are used already."""
    weights = np.array([len(images.rows[name]) for name in images.names]) ** ICON_POWER
    chosen = []
    for names in used:
        drawn = draw.choice(len(weights), size=batch, replace=False, p=weights / weights.sum())
        free = [concept for concept in drawn.tolist() if images.names[concept] not in names]
        chosen.append(free[: batch - len(names)])
    return chosen


def random_view(image: Image.Image, draw: np.random.Generator, strength: float) -> np.ndarray:
    """An image turned, scaled, shifted, on paper, in other colours, drawn as contours, with a patch painted over."""
    moved = _moved(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), draw, strength)
    values = np.asarray(moved, dtype=np.float32) / 255
    colour, alpha = values[..., :3], values[..., 3:]
    visible = colour[alpha[..., 0] > 0.5]
    if len(visible) and np.ptp(visible, axis=1).max() < 0.05:
        view = _filled(alpha, draw, strength)
    else:
        paper = np.ones(3) if draw.random() < 1 - 0.6 * strength else draw.random(3)
        view = _contours(_jittered(colour * alpha + paper * (1 - alpha), draw, strength), draw, strength)
    if draw.random() < 0.25 * strength:
        side = int(SIDE * draw.uniform(0.15, 0.35))
        top, left = draw.integers(SIDE - side, size=2)
        view[top : top + side, left : left + side] = draw.random(3)
    return (view.clip(0, 1) * 255).round().astype(np.uint8)


def _moved(image: Image.Image, draw: np.random.Generator, strength: float) -> Image.Image:
    angle = draw.uniform(-0.3, 0.3) * strength
    scale = 1.05 * math.exp(draw.uniform(-0.22, 0.22) * strength)
    aspect = math.exp(draw.uniform(-0.12, 0.12) * strength)
    matrix = np.array(
        [
            [math.cos(angle) * scale * aspect, -math.sin(angle) * scale],
            [math.sin(angle) * scale, math.cos(angle) * scale / aspect],
        ]
    )
    middle = np.full(2, (SIDE - 1) / 2)
    offset = middle - matrix @ middle + draw.uniform(-0.1, 0.1, 2) * strength * SIDE
    affine = (*matrix[0], offset[0], *matrix[1], offset[1])
    return image.transform((SIDE, SIDE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)


def _filled(alpha: np.ndarray, draw: np.random.Generator, strength: float) -> np.ndarray:
    """A one-coloured icon: dark on light paper, seldom light on dark."""
    dark = draw.random(3) * draw.choice([0.2, 0.75])
    dark = dark * (0.6 if dark.mean() > 0.5 else 1.0)
    light = np.ones(3) if draw.random() < 0.7 else 0.65 + 0.35 * draw.random(3)
    ink, paper = (light, dark) if draw.random() < 0.15 * strength else (dark, light)
    return ink * alpha + paper * (1 - alpha)


def _jittered(view: np.ndarray, draw: np.random.Generator, strength: float) -> np.ndarray:
    """Other saturation (seldom none), contrast and brightness."""
    grey = view @ np.array([[0.299], [0.587], [0.114]])
    saturation = 0.0 if draw.random() < 0.15 * strength else draw.uniform(0.6, 1.4)
    view = grey + (view - grey) * saturation
    return (view - 0.5) * draw.uniform(0.7, 1.3) + 0.5 + draw.uniform(-0.1, 0.1, 3)


def _contours(view: np.ndarray, draw: np.random.Generator, strength: float) -> np.ndarray:
    """Now and then dark outlines over the colours, or outlines alone on white."""
    chance = draw.random()
    if chance >= 0.32 * strength:
        return view
    grey = view.mean(axis=2)
    edges = np.abs(np.diff(grey, axis=1, append=grey[:, -1:])) + np.abs(np.diff(grey, axis=0, append=grey[-1:]))
    paper = np.ones_like(view) if chance < 0.1 * strength else view
    return paper * (1 - (4 * edges).clip(0, 1))[..., None]


class MiniTrainer(ContrastiveTrainer):
    """Takes the draws in their order, and leaves embeddings out of the weight decay."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if "embedding" not in name]


def new_model(example: ExampleArguments, tokenizer: Any) -> CLIPModel:
    """A random model of width 128, heads of 32; large position embeddings help a small image tower to start."""
    tower = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
    vision = {"image_size": example.image_size, "patch_size": 8, "num_hidden_layers": example.vision_layers}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": example.text_layers,
        "max_position_embeddings": 24,
        "pad_token_id": tokenizer.eos_token_id,
        **ids,
    }
    model = CLIPModel(
        CLIPConfig(
            vision_config={**tower, **vision, "projection_dim": 128},
            text_config={**tower, **text, "projection_dim": 128},
            projection_dim=128,
        )
    )
    model.vision_model.embeddings.position_embedding.weight.data.mul_(10)
    return model


def grown(small: CLIPModel, example: ExampleArguments) -> CLIPModel:
    """The same function with more layers, which add nothing at first, and for bigger images.

    Raises:
        `ClipAlignError`: the target is smaller.
    """
    config = copy.deepcopy(small.config)
    config.vision_config.image_size = example.image_size
    weights = small.state_dict()
    sizes = {"vision_model": example.vision_layers, "text_model": example.text_layers}
    for tower, wanted in sizes.items():
        part = getattr(config, tower.replace("model", "config"))
        weights = _with_layers(weights, f"{tower}.encoder.layers.", part.num_hidden_layers, wanted)
        part.num_hidden_layers = wanted
    positions = "vision_model.embeddings.position_embedding.weight"
    side = config.vision_config.image_size // config.vision_config.patch_size
    weights[positions] = _interpolated(weights[positions], side)
    model = CLIPModel(config)
    model.load_state_dict({name: value for name, value in weights.items() if not name.endswith("position_ids")})
    return model


def _with_layers(weights: dict[str, Tensor], prefix: str, has: int, wanted: int) -> dict[str, Tensor]:
    """New layers spread among the old; each copies the layer below it, with output projections of zero."""
    if wanted < has:
        raise ClipAlignError(f"the model has {has} layers and cannot be grown to {wanted}")
    added = {round((i + 1) * has / (wanted - has + 1)) for i in range(wanted - has)}
    if len(added) < wanted - has or 0 in added:
        raise ClipAlignError(f"{has} layers cannot be grown to {wanted} at once: grow them in two steps")
    order = [(old, new) for old in range(has) for new in ((False, True) if old + 1 in added else (False,))]
    result = {name: value for name, value in weights.items() if not name.startswith(prefix)}
    for place, (old, is_new) in enumerate(order):
        for name, value in weights.items():
            if name.startswith(f"{prefix}{old}."):
                silent = is_new and ("out_proj" in name or "fc2" in name)
                result[name.replace(f"{prefix}{old}.", f"{prefix}{place}.", 1)] = value * (0 if silent else 1)
    return result


def _interpolated(positions: Tensor, side: int) -> Tensor:
    """Position embeddings `[1 + n², w]` for a grid of another side; the class token's is kept."""
    old = math.isqrt(len(positions) - 1)
    if old == side:
        return positions
    grid = positions[1:].T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], grid.flatten(2)[0].T])


@torch.no_grad()
def features_of(model: CLIPModel, processor: Any, draws: Draws, batch: int) -> tuple[Tensor, Tensor]:
    """Features before the projectors of all draws, images and texts."""
    encoder, images, texts = as_dual_encoder(model.eval()), [], []
    for start in range(0, len(draws), batch):
        items = collate_pairs([draws[index] for index in range(start, min(start + batch, len(draws)))])
        images.append(encoder.image_preprojection(items["images"]["pixel_values"].to(encoder.device)))
        texts.append(encoder.text_preprojection(**tokenize(encoder, processor, items["captions"], truncate=True)))
    return torch.cat(images), torch.cat(texts)


def retrain_projectors(model: CLIPModel, draws: Draws, processor: Any, example: ExampleArguments) -> None:
    """New projectors on frozen towers: the features are taken once, the scale is 100."""
    images, texts = features_of(model, processor, draws, example.projector_batch)
    projectors = [model.visual_projection.weight, model.text_projection.weight]
    for weight in projectors:
        nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    model.logit_scale.data.fill_(math.log(PROJECTOR_SCALE))
    optimizer = torch.optim.AdamW(projectors, lr=example.projector_rate, betas=(0.9, 0.98), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, example.projector_steps)
    names = np.unique([draws.name(index) for index in range(len(draws))], return_inverse=True)[1]
    names = torch.from_numpy(names).to(images.device)
    for _ in range(example.projector_steps):
        rows = torch.randint(len(images), (min(example.projector_batch, len(images)),), device=images.device)
        loss = contrastive_loss(
            images[rows] @ projectors[0].T,
            texts[rows] @ projectors[1].T,
            PROJECTOR_SCALE,
            positives=names[rows][:, None] == names[rows],
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def open_icons(path: str) -> Images:
    """Icons of a parquet file or a folder `set/icon-name.png`.

    Raises:
        `ClipAlignError`: there are none, or the columns are missing.
    """
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.suffix.lower() in IMAGE_EXTENSIONS)
        table = datasets.Dataset.from_dict(
            {
                "image": [str(file) for file in files],
                "name": [file.stem.replace("-", " ").replace("_", " ") for file in files],
            }
        )
    else:
        table = datasets.Dataset.from_parquet(path)
    if not len(table) or not {"image", "name"} <= set(table.column_names):
        raise ClipAlignError(f"{path}: no icons; give a folder of images, or a parquet file with image and name")
    return Images(table.cast_column("image", datasets.Image()), "icon")


def scores(model: Any, processor: Any) -> dict[str, float]:
    """Zero-shot accuracy among all known names on left-out images, and among all novel names."""
    mini, accuracy = load_mini(), {}
    for part, novel in (("val_known", False), ("novel", True)):
        emoji = mini.emoji_subset(novel=novel, exclude_groups=None)
        source = from_dataset(emoji, label_column="name")
        rows = [row for row, split in enumerate(emoji["split"][:]) if split == part]
        test = f"{part}, {len(source.class_names or ())} names"
        accuracy[test] = zero_shot_accuracy(model, processor, take(source, rows), "an emoji of {}")
    return accuracy


def main(argv: list[str] | None = None) -> ResultTable:
    parser = HfArgumentParser((ExampleArguments, ContrastiveTrainingArguments), description=__doc__)
    parser.set_defaults(**DEFAULTS)
    example, training = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else argv)
    set_seed(training.seed)
    tokenizer = load_mini().student_processor.tokenizer
    size = {"height": example.image_size, "width": example.image_size}
    half = [0.5] * 3
    image_processor = CLIPImageProcessor(size=size, do_center_crop=False, image_mean=half, image_std=half)
    processor = CLIPProcessor(image_processor, tokenizer)
    model = new_model(example, tokenizer) if example.start is None else CLIPModel.from_pretrained(example.start)
    model = grown(model, example)
    if training.device.type == "cpu":
        model.set_attn_implementation("eager")  # its backward pass in bfloat16 is faster there

    collections = [Images(load_mini().emoji_subset(split="train", exclude_groups=None), "emoji")]
    if example.icons is not None:
        collections.append(open_icons(example.icons))
    batch = training.train_batch_size * training.world_size
    plan = plan_draws(collections, training.max_steps, batch, training.seed)
    draws = Draws(collections, plan, processor, example.augmentation, training.seed)
    trainer = MiniTrainer(model, training, processing_class=processor, train_dataset=draws)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    table = ResultTable("Zero-shot accuracy")
    table.add("trained", scores(model.eval(), processor))
    if example.projector_steps:
        last = plan[-math.ceil(example.projector_images / batch) :]
        again = Draws(collections, last, processor, PROJECTOR_AUGMENTATION, training.seed + 1)
        retrain_projectors(model, again, processor, example)
        table.add("new projectors", scores(model, processor))
    trainer.save_model()
    trainer.create_model_card()
    if trainer.is_world_process_zero():
        Console().print(table.to_rich())
        print(f"Model, processor and card: {training.output_dir}")
    return table


if __name__ == "__main__":
    try:
        main()
    except ClipAlignError as error:
        sys.exit(f"error: {error}")
