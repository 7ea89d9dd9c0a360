"""docs/serving.md: its code gives the model's own cosines where this package cannot be imported."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_clipalign import IsoCLIPModel
from hf_clipalign.data import load_mini
from hf_clipalign.hub import export_onnx, export_sentence_transformers

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder with two images and both exports, and the cosine of the images."""
    for name in ("sentence_transformers", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    folder, mini = tmp_path_factory.mktemp("serving"), load_mini()
    model, processor = IsoCLIPModel.from_clip_pretrained(mini.student, image_band=(1, 48)), mini.student_processor
    images = [mini.emoji[row]["image"].convert("RGB").resize(size) for row, size in ((0, (90, 60)), (7, (64, 64)))]
    for name, image in zip("ab", images, strict=True):
        image.save(folder / f"{name}.png")
    export_sentence_transformers(model, folder / "student-st", processor, compact=True)
    export_onnx(model, folder / "student.onnx", compact=True, processor=processor)
    with torch.no_grad():
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        features = model.get_image_features(pixels).pooler_output.numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return folder, float(features[0] @ features[1])


@pytest.mark.parametrize(
    ("heading", "absent"),
    [("sentence-transformers", ["hf_clipalign"]), ("onnxruntime", ["hf_clipalign", "torch", "transformers"])],
)
def test_the_code_of_the_page_gives_the_cosine_of_the_model(served, heading, absent):
    folder, expected = served
    page = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(rf"^## {heading}\n.*?```python\n(.*?)```", page, flags=re.DOTALL | re.MULTILINE)
    program = f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n{code}\nprint(similarity)"
    found = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout.split()[-1]) == pytest.approx(expected, abs=2e-5)
