"""Local paths in the middle of what is uploaded: no byte of them leaves the machine, and nothing else changes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, SiglipConfig

from hf_clipalign.data import load_mini
from hf_clipalign.hub import push_folder
from hf_clipalign.hub.published import published, without_local_names
from hf_clipalign.trainers.pushing import push_checkpoint
from tests.hub.conftest import pushes_to
from tests.hub.local_hub import serve

PERSON = "maria-lopez-1957"
PATHS = (
    *(f"/home/{PERSON}/clips", f"~/{PERSON}/clips", f"~{PERSON}/clips", f"../{PERSON}/clips", f"./{PERSON}"),
    *(f"C:\\Users\\{PERSON}\\clips", f"\\\\server\\{PERSON}\\clips", f"file:///data/{PERSON}", f"runs/{PERSON}/base"),
    *(f"$HOME/{PERSON}", f"data/{PERSON}.csv"),
)
CERTAIN = (PATHS[0], PATHS[1], PATHS[2], PATHS[5], PATHS[6], PATHS[7], PATHS[9])
TEXTS = ("trained on {} in May", "see ({})", "a={}, b=2", "{}", "'{}'")


@pytest.fixture
def hub(monkeypatch):
    with serve() as (hub, url):
        pushes_to(url, monkeypatch)
        yield hub


def leaky(text):
    """A configuration with a text in every kind of place."""
    return {
        "note": text,
        "list": [text, {"deep": [text]}],
        "more": {text: 1, f"{text} again": {"x": text}},
        "cache_dir": text,
        "best_model_checkpoint": text,
    }


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def nothing_of_a_person(files):
    for name, content in files.items():
        assert PERSON.encode() not in content, (name, content[max(0, content.find(PERSON.encode()) - 200) :][:300])


def test_no_byte_of_a_path_is_uploaded(hub, tmp_path) -> None:
    folder, sentences = tmp_path / "model", tmp_path / "st"
    texts = [text.format(path) for text in TEXTS for path in PATHS]
    kept = {"class_names": [f"cat of {path}" for path in CERTAIN], "template": f"a photo of {PATHS[0]} {{}}"}
    for name in ("config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json"):
        write(folder / name, {"values": list(map(leaky, texts)), **leaky(PATHS[0]), **kept})
    write(folder / "model.safetensors.index.json", {"metadata": leaky(texts[0]), "weight_map": {"x": "model"}})
    write(folder / "trainer_state.json", {"log_history": [{"loss": 0.5, "at": texts}], **leaky(PATHS[8])})
    metadata = {"format": "pt", **{str(number): text for number, text in enumerate(texts)}, "j": json.dumps(texts)}
    save_file({"x": torch.arange(6.0)}, folder / "model.safetensors", metadata)
    for file in folder.iterdir():
        (sentences / "1_Dense").mkdir(parents=True, exist_ok=True)
        for copy in (sentences / file.name, sentences / "1_Dense" / file.name):
            copy.write_bytes(file.read_bytes())
    write(sentences / "modules.json", [{"idx": 0, "note": texts}])
    write(sentences / "config_sentence_transformers.json", leaky(texts[3]))
    (sentences / "README.md").write_text("---\nlicense: mit\n---\nby hand\n")
    push_folder(folder, "tester/model", include=["trainer_state.json"])
    push_folder(sentences, "tester/st")
    for repo, least in (("tester/model", 8), ("tester/st", 11)):
        pushed = hub.repos[repo].files()
        assert len(pushed) >= least, sorted(pushed)
        nothing_of_a_person(pushed)
    assert json.loads(hub.repos["tester/model"].files()["trainer_state.json"])["log_history"][0]["loss"] == 0.5


def test_no_byte_of_a_path_is_uploaded_with_an_adapter_or_a_checkpoint(hub, tmp_path) -> None:
    for name in ("adapter", "checkpoint-4"):
        write(tmp_path / name / "adapter_config.json", {"peft_type": "CLIP_COOP", **leaky(f"x {PATHS[0]}"), "r": 4})
        save_file({"x": torch.ones(1)}, tmp_path / name / "adapter_model.safetensors", {"of": " or ".join(PATHS)})
        history = [{"best_model_checkpoint": path, "note": f"at {path}."} for path in PATHS]
        write(tmp_path / name / "trainer_state.json", {"log_history": history, "epoch": 1.0, **leaky(PATHS[8])})
        write(tmp_path / name / "training_args.json", {"output_dir": PATHS[0]})
    push_folder(tmp_path / "adapter", "tester/adapter")
    hub.add("tester/run", {})
    settings = SimpleNamespace(hub_token="hf_writer", hub_revision=None)
    trainer = SimpleNamespace(hub_model_id="tester/run", args=settings)
    push_checkpoint(trainer, tmp_path / "checkpoint-4", "last-checkpoint", "Step 4").result()
    pushed = hub.repos["tester/run"].files()
    assert set(pushed) == {"last-checkpoint/adapter_model.safetensors", "last-checkpoint/trainer_state.json"}
    assert json.loads(pushed["last-checkpoint/trainer_state.json"])["epoch"] == 1.0
    nothing_of_a_person({**pushed, **hub.repos["tester/adapter"].files()})


def test_tensors_of_masked_weights_are_the_same_bytes(tmp_path) -> None:
    tensors = {"b": torch.randn(3, 5), "a": torch.arange(7, dtype=torch.int64), "h": torch.ones(3).bfloat16()}
    file = tmp_path / "model.safetensors"
    save_file(tensors, file, {"format": "pt", "of": "from /home/maria/x", "ids": '["/a/b"]'})
    (tmp_path / "staging").mkdir()
    cleaned = published("model.safetensors", file, tmp_path / "staging")
    assert cleaned != file
    loaded = load_file(cleaned)
    assert {name: value.dtype for name, value in loaded.items()} == {n: value.dtype for n, value in tensors.items()}
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    with safe_open(cleaned, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt", "of": "from …", "ids": '["…"]'}
    save_file(tensors, file, {"format": "pt"})
    assert published("model.safetensors", file, tmp_path / "staging") == file
    for damaged in (b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]"):
        file.write_bytes(damaged)
        assert published("model.safetensors", file, tmp_path / "staging") == file


def test_what_a_model_needs_stays() -> None:
    config = {
        "class_names": ["/m/0k4j", "TCP/IP", "true/false/unclear", "data/entry"],
        "id2label": {"0": "home/garden", "1": "n/a"},
        "label2id": {"home/garden": 0},
        "target_modules": r".*text_model\.encoder\.layers\.\d+\.(q|v)_proj",
        "rank_pattern": {r"^layers\.0\.attn/q": 4},
        "prompts": {"query": "query/passage/other: "},
        "template": "an image of a/b/c {}",
        "bos_token": "</s>",
        "additional_special_tokens": ["</s>", "<0x0A>", "/"],
        "added_tokens_decoder": {"2": {"content": "</s>", "special": True}},
        "extra_special_tokens": {"image_token": "</img>"},
        "chat_template": "{% if x %}/home/x{% endif %}",
        "auto_map": {"AutoModel": "owner/name--modeling.Model"},
        "base_model_name_or_path": "openai/clip-vit-base-patch32",
        "homepage": "https://hf.co/openai/clip/tree/main",
        "date": "1/2/2024 and/or 10 %/90 %",
    }
    assert without_local_names(config) == config


@pytest.mark.parametrize("config", [CLIPConfig(), SiglipConfig(), LoraConfig(target_modules=["q_proj"])])
def test_configurations_without_paths_are_published_as_they_are(config, tmp_path) -> None:
    config.save_pretrained(tmp_path)
    (file,) = tmp_path.iterdir()
    assert published(file.name, file, tmp_path) == file


def test_the_built_in_models_are_published_as_they_are(tmp_path) -> None:
    for file in Path(load_mini().student_path).iterdir():
        assert published(file.name, file, tmp_path) == file


def test_a_name_that_a_model_needs_loses_a_certain_path_with_a_warning(caplog) -> None:
    with caplog.at_level(logging.WARNING, "hf_clipalign"):
        cleaned = without_local_names({"template": "a {} in /home/maria/x", "concepts": ["a", "C:\\maria\\b"]})
    assert cleaned == {"template": "a {} in …", "concepts": ["a", "…"]}
    (record,) = caplog.records
    assert record.message.endswith("pushed as 'a {} in …', '…'")


def test_equal_masked_keys_lose_no_value_and_secrets_by_their_keys_go() -> None:
    config = {"/home/a": 1, "/home/b": 2, "hub_token": "abc", "push_to_hub_token": "abc", "api_key": "abc", "n": 3}
    cleaned = without_local_names(config)
    assert sorted(cleaned.values(), key=str) == [1, 2, 3, "…", "…", "…"]
    assert "home" not in str(cleaned)


def test_onnx_files_lose_traces_and_paths(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    node = helper.make_node("Relu", ["x"], ["y"], doc_string=f"/home/{PERSON}/model.py")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=f"File /home/{PERSON}/model.py, line 3")
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))
    facts = {"base_model": f"/home/{PERSON}/clip", "band": [1, 2]}
    model.metadata_props.add(key="hf_clipalign", value=json.dumps(facts))
    onnx.save(model, tmp_path / "image.onnx")
    (tmp_path / "staging").mkdir()
    cleaned = published("image.onnx", tmp_path / "image.onnx", tmp_path / "staging")
    assert PERSON.encode() not in Path(cleaned).read_bytes()
    again = onnx.load(cleaned)
    assert [entry.op_type for entry in again.graph.node] == ["Relu"]
    assert json.loads(again.metadata_props[0].value) == {"base_model": "…", "band": [1, 2]}
    assert published("image.onnx", Path(cleaned), tmp_path / "staging") == cleaned
