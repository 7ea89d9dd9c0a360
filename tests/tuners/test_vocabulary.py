"""A learned context written as vocabulary, read by a process that does not know this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.tuners import (
    CoOpConfig,
    MaPLeConfig,
    build_prompts,
    export_vocabulary,
    plan_prompts,
    prompted_logits,
)
from tests.tiny_models import (
    tiny_clip,
    tiny_image_processor,
    tiny_metaclip2,
    tiny_siglip,
    tiny_tokenizer,
)
from tests.versions import OLD

needs_pipeline_for_siglip = pytest.mark.skipif(
    OLD, reason="5.0 has no tokenizer class for SigLIP without sentencepiece"
)
NAMES = ["cat", "red fox", "owl"]
SCRIPT = """
import json, sys
from PIL import Image
from transformers import pipeline
templates, names, scores = json.loads(sys.argv[1]), json.loads(sys.argv[2]), {}
for folder, template in templates.items():
    classify = pipeline("zero-shot-image-classification", model=folder)
    found = classify(Image.new("RGB", (40, 40), "red"), names, hypothesis_template=template)
    scores[folder] = {item["label"]: item["score"] for item in found}
assert not any(name.startswith(("hf_clipalign", "peft")) for name in sys.modules)
print(json.dumps(scores))
"""
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "clip": ("clip", tiny_clip, {}),
    "clip-legacy": ("clip", lambda: tiny_clip(eos_token_id=2), {}),
    "clip-middle": ("clip", tiny_clip, {"class_token_position": "middle"}),
    "clip-front": ("clip", tiny_clip, {"class_token_position": "front"}),
    "metaclip_2": ("metaclip_2", tiny_metaclip2, {}),
    "siglip": ("siglip", tiny_siglip, {}),
}


def learned(model: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    peft_model = get_peft_model(model, CoOpConfig(**({"n_ctx": 4} | options)))
    context = next(parameter for parameter in peft_model.parameters() if parameter.requires_grad)
    torch.nn.init.normal_(context, std=0.5)
    return peft_model.eval()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The scores of every case, from one process without the package."""
    root, templates = tmp_path_factory.mktemp("vocabulary"), {}
    for case, (family, make, options) in CASES.items():
        if case == "siglip" and OLD:
            continue
        tokenizer, processor = tiny_tokenizer(family), tiny_image_processor(family)
        size = len(tokenizer)
        templates[case] = export_vocabulary(
            learned(make(), **options), tokenizer, root / case, image_processor=processor
        )
        assert len(tokenizer) == size
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(templates), json.dumps(NAMES)]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=needs_pipeline_for_siglip if case == "siglip" else ()) for case in CASES]
)
def test_a_process_without_the_package_gets_the_same_logits(case: str, elsewhere: dict[str, dict[str, float]]) -> None:
    family, make, options = CASES[case]
    model, processor = learned(make(), **options), tiny_image_processor(family)
    plan = plan_prompts(model, build_prompts(model, tiny_tokenizer(family), NAMES))
    pixel_values = processor(Image.new("RGB", (40, 40), "red"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = prompted_logits(model, pixel_values, plan)[0]
    expected = logits.sigmoid() if family == "siglip" else logits.softmax(dim=-1)
    assert torch.allclose(torch.tensor([elsewhere[case][name] for name in NAMES]), expected, atol=1e-4)


def test_the_adapter_and_its_base_stay_as_they_were(tmp_path: Path) -> None:
    model = learned(tiny_clip())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert export_vocabulary(model, tiny_tokenizer(), tmp_path) == "<ctx_0> <ctx_1> <ctx_2> <ctx_3> {}."
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.get_base_model().config.text_config.vocab_size == len(tiny_tokenizer())


def test_what_cannot_be_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipAlignError, match="activate a CoOp adapter"):
        export_vocabulary(get_peft_model(tiny_clip(), MaPLeConfig()), tiny_tokenizer(), tmp_path)
    with pytest.raises(ClipAlignError, match="activate a CoOp adapter"):
        export_vocabulary(tiny_clip(), tiny_tokenizer(), tmp_path)
    with pytest.raises(ClipAlignError, match="class-specific"):
        export_vocabulary(learned(tiny_clip(), class_specific=True, n_classes=3), tiny_tokenizer(), tmp_path)
    (tmp_path / "file").write_text("taken")
    with pytest.raises(ClipAlignError, match="a file of that name exists"):
        export_vocabulary(learned(tiny_clip()), tiny_tokenizer(), tmp_path / "file")
