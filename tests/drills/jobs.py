"""What the drills run in a process of its own: each job resumes when it is started again in the same folder."""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import hf_clipalign.cli.app
import tests.trainers.contrastive.runs as contrastive_runs
import tests.trainers.gcd.runs as gcd_runs
import tests.trainers.prompts.runs as prompt_runs
import tests.trainers.retune.runs as retune_runs
from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.features import extract_to_store
from hf_clipalign.hub import export_sentence_transformers, push_isoclip
from hf_clipalign.inversion import invert_to_store
from hf_clipalign.search.index import ImageIndex
from tests.tiny_models import tiny_clip, tiny_image_processor, tiny_tokenizer

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

Image.init()  # once, and not in every process that is begun
tiny_clip()

N_IMAGES = 24
SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}


def write_images(folder: Path) -> None:
    """Images to embed, beside the store."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(N_IMAGES):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
            folder / "images" / f"{number:02d}.png"
        )
        os.utime(folder / "images" / f"{number:02d}.png", (1e9, 1e9))


def embed(folder: Path, num_workers: int = 0) -> None:
    torch.set_num_threads(1)
    extract_to_store(
        tiny_clip().eval(),
        folder / "images",
        tiny_image_processor(),
        folder / "store",
        shard_size=4,
        batch_size=2,
        num_workers=num_workers,
        progress=False,
    )


def embed_with_workers(folder: Path) -> None:
    embed(folder, num_workers=2)


def index(folder: Path) -> None:
    """Builds an index, or brings it up to date."""
    torch.set_num_threads(1)
    path, model, processor = folder / "index", tiny_clip().eval(), tiny_image_processor()
    if (path / "index.sqlite").exists():
        index = ImageIndex.open(path)
    else:
        index = ImageIndex.create(folder / "images", model, path, processor=processor, head=(1, 3), shard_size=4)
    index.update(model=model, processor=processor, batch_size=2, num_workers=0, progress=False)


def index_to_update(folder: Path) -> None:
    """A finished index, and what happens to its images: renamed, deleted, changed, copied, new and broken ones."""
    write_images(folder)
    index(folder)
    images = folder / "images"
    (images / "new").mkdir()
    for number in range(0, 6):
        os.rename(images / f"{number:02d}.png", images / "new" / f"{number:02d}.png")
    for number in range(6, 14):
        (images / f"{number:02d}.png").unlink()
    shutil.copy2(images / "14.png", images / "copy.png")
    for number in range(18, 24):
        Image.new("RGB", (20, 20), (number, 3 * number, 0)).save(images / f"{number:02d}.png")
        shutil.copy(images / f"{number:02d}.png", images / "new" / f"{number + 10}.png")
        Image.new("RGB", (20, 20), (number, 0, 5 * number)).save(images / f"{number + 20:02d}.png")
    (images / "new" / "broken.png").write_bytes(b"no image")
    for path in images.rglob("*.png"):
        os.utime(path, (1e9 + 1, 1e9 + 1))


def ovi(folder: Path) -> None:
    torch.set_num_threads(1)
    embeds = torch.randn(8, 24, generator=torch.Generator().manual_seed(0))
    invert_to_store(
        folder / "ovi", "ovi", tiny_clip().eval(), embeds, shard_size=1, n_tokens=1, steps=3, progress=False
    )


@functools.cache
def _aligned(k_top: int) -> IsoCLIPModel:
    return IsoCLIPModel.from_clip_pretrained(tiny_clip(), image_band=(k_top, 2), text_band=(2, k_top))


def old_export(folder: Path) -> None:
    """What an export replaces."""
    _export(folder, 1)


def export(folder: Path) -> None:
    torch.set_num_threads(1)
    _export(folder, 3)


def _export(folder: Path, k_top: int) -> None:
    model = _aligned(k_top)
    model.save_pretrained(folder / "aligned")
    model.save_stock(folder / "stock", "image", compact=True)


def sentence_transformers(folder: Path) -> None:
    torch.set_num_threads(1)
    export_sentence_transformers(_aligned(3), folder / "st", _Processor())


class _Processor:
    tokenizer = tiny_tokenizer()
    image_processor = tiny_image_processor()

    def save_pretrained(self, folder: Any) -> None:
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def push(folder: Path) -> None:
    """To the Hub at the address in `folder/hub.txt`; what is staged goes to `folder/tmp`."""
    import tempfile

    from huggingface_hub import constants

    torch.set_num_threads(1)
    constants.ENDPOINT = (folder / "hub.txt").read_text()
    constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_OFFLINE = False
    constants.HF_HUB_DISABLE_XET = True
    tempfile.tempdir = str(folder / "tmp")
    push_isoclip(_aligned(3), "tester/pushed", token="hf_writer")


def _resumed(trainer: Any) -> Any:
    try:
        trainer.train(resume_from_checkpoint=True)
    except ClipAlignError as error:
        if "resume" not in str(error):
            raise
        trainer.train()
    return trainer


def kdpl(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = _resumed(prompt_runs.build("kdpl", folder / "run", **SAVING))
    trainer.save_model(str(folder / "trained"))


def contrastive(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = _resumed(contrastive_runs.build(folder / "run", **SAVING))
    trainer.save_model(str(folder / "trained"))


def gcd(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = _resumed(gcd_runs.build(folder / "run", **SAVING, num_train_epochs=1))
    trainer.save_model(str(folder / "trained"))


def retune(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = _resumed(retune_runs.build(folder / "run", num_train_epochs=2))
    trainer.save_model(str(folder / "trained"))


def command(folder: Path, *arguments: str) -> None:
    """The `clipalign` command."""
    hf_clipalign.cli.app.app(list(arguments), standalone_mode=False)
