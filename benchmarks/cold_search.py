"""How long a first `clipalign search IDX "words"` takes, as a whole process, beside `python -c "import torch"`.

    python benchmarks/cold_search.py

The model has the sizes of CLIP ViT-B/32 and random weights. The processes take turns; medians of `--rounds`. Rows: the
interpreter with torch imported; a search that loads the model with transformers; one that reads the checkpoint's text
tower with NumPy; one that runs the ONNX text tower (extra `onnx`).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

_SEARCH = "from hf_clipalign.cli import main; main()"
_BARS = {"transformers": None, "NumPy tower": 2.0, "ONNX tower": 0.6}


def checkpoint(folder: Path) -> Path:
    """A CLIP of the sizes of ViT-B/32 with random weights and the tokenizer of the built-in models."""
    from transformers import CLIPConfig, CLIPModel

    from hf_clipalign.data import load_mini

    processor = load_mini().student_processor
    end = processor.tokenizer.eos_token_id
    model = CLIPModel(CLIPConfig(text_config={"eos_token_id": end, "bos_token_id": 0, "vocab_size": 49408}))
    model.save_pretrained(folder)
    processor.image_processor.size = {"shortest_edge": 224}
    processor.image_processor.crop_size = {"height": 224, "width": 224}
    processor.save_pretrained(folder)
    return folder


def images(folder: Path, n: int = 64) -> Path:
    """Images of noise."""
    folder.mkdir()
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def indexes(work: Path) -> dict[str, Path]:
    """The same images indexed three times, each with another way to read words."""
    from hf_clipalign.hub import export_text_tower
    from hf_clipalign.search import ImageIndex
    from hf_clipalign.search.answers.texts import prepare_texts
    from hf_clipalign.search.text_tower import FOLDER

    model, photos, made = checkpoint(work / "model"), images(work / "photos"), {}
    for name in _BARS:
        index = ImageIndex.create(photos, model, work / f"{name}.index", head="raw")
        index.update(progress=False)
        made[name] = index.path
        if name == "NumPy tower" and not prepare_texts(index):
            raise SystemExit("the NumPy tower does not agree with the model")
        if name == "ONNX tower":
            loaded = index._checked_model()
            export_text_tower(loaded.encoder, loaded.processor, index.path / FOLDER)
    return made


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        commands = {"import torch": [sys.executable, "-c", "import torch"]}
        for name, index in indexes(Path(work)).items():
            commands[name] = [sys.executable, "-c", _SEARCH, "search", str(index), "a red car", "--json"]
        measured: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(options.rounds + 1):
            for name, command in commands.items():
                took = seconds(command)
                if number:
                    measured[name].append(took)
    base = statistics.median(measured["import torch"])
    for name, values in measured.items():
        median = statistics.median(values)
        bar = f"   bar {_BARS[name]}" if _BARS.get(name) else ""
        print(f"{name:14} {median:6.2f} s   {median / base:5.2f} x import torch{bar}")


if __name__ == "__main__":
    main()
