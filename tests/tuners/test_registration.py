"""How the methods become known to PEFT."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
from packaging import version
from peft import PeftModel, PeftType, get_peft_model, mapping

import hf_clipalign.tuners.vpt
from hf_clipalign.tuners import VPTConfig, VPTModel, _registration
from hf_clipalign.tuners._layers import ImagePrompts
from tests.tiny_models import tiny_clip
from tests.tuners.methods import CONFIGS, logits, stirred


@pytest.mark.parametrize("method", CONFIGS)
def test_the_types_are_members_like_any_other(method: str) -> None:
    kind = CONFIGS[method]().peft_type
    assert kind in list(PeftType)
    assert PeftType(kind.value) is kind
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert copy.deepcopy(kind) is kind


def test_registering_again_does_nothing() -> None:
    before = dict(mapping.PEFT_TYPE_TO_CONFIG_MAPPING)
    importlib.reload(hf_clipalign.tuners.vpt)
    assert before == mapping.PEFT_TYPE_TO_CONFIG_MAPPING


def test_importing_the_package_alone_loads_neither_torch_nor_peft() -> None:
    code = "import sys, hf_clipalign; sys.exit(any(name in sys.modules for name in ('torch', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


class TrialPrompts(ImagePrompts):
    adapter_layer_names = ("clip_trial_prompts",)


class TrialModel(VPTModel):
    prefix = "clip_trial_"

    def wrap(self, module: Any, site: Any, encoder: Any) -> TrialPrompts:
        return TrialPrompts(module, appends=site.index == 0)


class TrialConfig(VPTConfig):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = _registration.peft_type("CLIP_TRIAL")


@pytest.mark.skipif(
    version.parse(peft.__version__) < version.parse("0.21"), reason="older releases save members of the Enum only"
)
def test_a_closed_enum_is_gone_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AttributeError(name)

    monkeypatch.setattr(_registration, "_extended_peft_type", refuse)
    for name in ("PREFIX", "CONFIG", "TUNER"):
        known = getattr(mapping, f"PEFT_TYPE_TO_{name}_MAPPING")
        monkeypatch.setitem(known, "CLIP_TRIAL", None)  # taken out again after the test
        del known["CLIP_TRIAL"]
    _registration.register_method("clip_trial", TrialConfig, TrialModel)
    assert "CLIP_TRIAL" not in PeftType.__members__
    model = stirred(get_peft_model(tiny_clip(), TrialConfig(n_prompts=2)), seed=1)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_clip(), tmp_path, adapter_name="other")
    assert (logits(loaded, "clip") - logits(model, "clip")).abs().max() < 1e-4
    bare = tiny_clip()
    bare.load_adapter(str(tmp_path))
    assert (logits(bare, "clip") - logits(model, "clip")).abs().max() < 1e-4
