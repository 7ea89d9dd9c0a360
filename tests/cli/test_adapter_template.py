"""An adapter's own prompt in the commands."""

import json

import numpy as np
import pytest
import torch
from peft import get_peft_model
from typer.testing import CliRunner

from hf_clipalign.backbones import load_model
from hf_clipalign.cli.app import app
from hf_clipalign.data import image_folder, load_mini, read_image
from hf_clipalign.evaluation import zero_shot_logits
from hf_clipalign.metrics import top_k_accuracy
from hf_clipalign.tuners import CoOpConfig
from tests.versions import loads_by_transformers


@loads_by_transformers
def test_the_template_of_an_adapter_is_used_and_another_one_is_named(tmp_path, caplog):
    mini, folder = load_mini(), tmp_path / "adapter"
    torch.manual_seed(0)
    adapter = get_peft_model(load_model(mini.student_path), CoOpConfig(n_ctx=2))
    adapter.save_pretrained(folder)
    mini.student_processor.save_pretrained(folder)
    icons = image_folder(_few_icons(tmp_path / "icons"))
    learner_says = zero_shot_logits(adapter, mini.student_processor, icons, icons.class_names)
    right = top_k_accuracy(learner_says, icons.labels, ks=(1,))["top1"]
    for task, command in (("zero-shot", "evaluate"), ("zero-shot", "compare")):
        caplog.clear()
        more = ("--methods", "raw") if command == "compare" else ()
        given = (command, tmp_path / "icons", "--task", task, "--model", folder, "--out", tmp_path / "out", *more)
        run = CliRunner().invoke(app, [str(word) for word in given])
        assert run.exit_code == 0, run.exception
        scores = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]
        assert (scores if command == "evaluate" else scores[0])["top1"] == pytest.approx(right)
        assert "is not the adapter's own" not in caplog.text
        CliRunner().invoke(app, [*(str(word) for word in given), "--template", "X Y {}."])
        assert "the prompt 'X Y {}.' is not the adapter's own, 'X X {}.'" in caplog.text


def _few_icons(folder):
    emoji = load_mini().emoji_subset(styles="noto")
    kinds = np.array(emoji["subgroup"][:])
    for kind in ("animal-bird", "heart", "tool", "time"):
        (folder / kind).mkdir(parents=True)
        for row in np.flatnonzero(kinds == kind)[:6].tolist():
            read_image(emoji[row]["image"]).save(folder / kind / f"{row}.png")
    return folder
