"""What leaves the machine: a folder with everything that must not, pushed to the local Hub, and its bytes searched."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
from huggingface_hub import ModelCard
from peft import get_peft_model
from safetensors.torch import save_file

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.backbones import load_processor
from hf_clipalign.data import load_mini
from hf_clipalign.hub import plan_upload, push_adapter, push_folder, push_isoclip
from hf_clipalign.hub.export.onnx import onnx_path
from hf_clipalign.hub.published import without_local_names
from hf_clipalign.tuners import CoOpConfig
from tests.hub.conftest import pushes_to
from tests.hub.local_hub import serve

TOKEN = "hf_" + "AbCdEf0123456789" * 2
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----"
PATIENT = "maria-lopez-1957"
STRAYS = (
    *("cache.pickle", "rows.joblib", "features.npz", "labels.parquet", "names.csv", "runs.sqlite", "notes.txt"),
    *("wandb/run-1/output.log", "runs/events.out", "checkpoint-5/model.safetensors", ".env", "training_args.bin"),
    *("shard-00000.safetensors", "features.json", "results.json", "trainer_state.json", "README.md.bak"),
    *("sub/model.safetensors", "sub/config.json", "model.safetensors.tmp"),
)
LOCAL = (
    *("/home/me/clips", "~/clips/base", "~maria/clips", "../clips/base", "./clips", "C:\\Users\\maria\\clips"),
    *("file:///home/maria/clips", "\\\\server\\maria\\clips", "clips/run/base"),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    base = load_mini().student_path
    IsoCLIPModel.from_clip_pretrained(base, image_band=(1, 48)).save_pretrained(folder, load_processor(base))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """The model among strays, in copies that a test may change."""
    for file in saved.iterdir():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model" / "spectrum.png").write_bytes(b"\x89PNG")
    for name in STRAYS:
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".safetensors":
            save_file({"x": torch.zeros(1)}, file, {"of": f"{PATIENT} {TOKEN}"})
        else:
            file.write_text(f"{PATIENT} {TOKEN}")
    return tmp_path / "model"


@pytest.fixture
def hub(monkeypatch):
    with serve() as (hub, url):
        pushes_to(url, monkeypatch)
        yield hub


def add_to_config(folder, **settings):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


def test_nothing_but_the_model_is_uploaded(folder, hub, caplog):
    (folder.parent / "id_rsa").write_text(KEY)
    (folder / "notes-link.txt").symlink_to(folder.parent / "id_rsa")
    (folder / "linked").symlink_to(folder.parent, target_is_directory=True)
    add_to_config(
        folder,
        _name_or_path=f"/data/{PATIENT}/clip",
        base_model_name_or_path=f"/data/{PATIENT}/clip",
        trained_on=f"C:\\{PATIENT}\\x",
        cache_dir=f"{PATIENT}/cache",
        note=f"pushed with {TOKEN}",
    )
    with caplog.at_level(logging.WARNING, "hf_clipalign"):
        push_folder(folder, "tester/clean")
    pushed = hub.repos["tester/clean"].files()
    assert set(pushed) == {
        *("README.md", "config.json", "model.safetensors", "processor_config.json", "spectrum.png"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    everything = b"".join(pushed.values()) + "".join(pushed).encode()
    for secret in (TOKEN, PATIENT, KEY, str(folder.parent)):
        assert secret.encode() not in everything
    (line,) = [record.message for record in caplog.records if record.message.startswith("not uploaded")]
    assert "names.csv" in line
    assert "--include" in line
    assert IsoCLIPModel.from_pretrained(folder).config.image_band == [1, 48]
    assert PATIENT in (folder / "config.json").read_text()


def test_an_aligned_model_is_pushed_with_processor_and_plot(saved, hub):
    push_isoclip(IsoCLIPModel.from_pretrained(saved), "tester/aligned", load_processor(saved))
    pushed = hub.repos["tester/aligned"].files()
    assert {"config.json", "model.safetensors", "tokenizer.json", "spectrum.png"} <= set(pushed)
    assert json.loads(pushed["config.json"])["image_band"] == [1, 48]


def test_a_folder_without_a_plot_gets_one_on_its_card(folder, hub):
    (folder / "spectrum.png").unlink()
    push_folder(folder, "tester/plot")
    pushed = hub.repos["tester/plot"].files()
    assert pushed["spectrum.png"].startswith(b"\x89PNG")
    assert b"spectrum.png" in pushed["README.md"]


def test_an_adapter_is_pushed_with_its_base_model_and_the_licence(hub):
    hub.add("tester/base", {"README.md": b"---\nlicense: apache-2.0\n---\nThe base.\n"})
    model = get_peft_model(copy.deepcopy(load_mini().student), CoOpConfig(n_ctx=2))
    push_adapter(model, "tester/prompts", base_model="tester/base")
    pushed = hub.repos["tester/prompts"].files()
    assert json.loads(pushed["adapter_config.json"])["base_model_name_or_path"] == "tester/base"
    data = ModelCard(pushed["README.md"].decode()).data
    assert (data.base_model, data.license) == ("tester/base", "apache-2.0")


def test_a_pushed_configuration_still_loads(folder, hub, tmp_path):
    push_folder(folder, "tester/loads")
    for name, content in hub.repos["tester/loads"].files().items():
        (tmp_path / "again").mkdir(exist_ok=True)
        (tmp_path / "again" / name).write_bytes(content)
    assert IsoCLIPModel.from_pretrained(tmp_path / "again").config.image_band == [1, 48]
    assert load_processor(tmp_path / "again").tokenizer.pad_token == load_processor(folder).tokenizer.pad_token


def test_a_file_is_added_by_its_name(folder, hub):
    (folder / "notes.txt").write_text("for everybody")
    push_folder(folder, "tester/more", include=["notes.txt", "wandb"])
    pushed = hub.repos["tester/more"].files()
    assert pushed["notes.txt"] == b"for everybody"
    assert "wandb/run-1/output.log" in pushed
    assert "names.csv" not in pushed


@pytest.mark.parametrize(
    ("include", "message"),
    [
        (["nothing.txt"], "holds no 'nothing.txt' to include"),
        (["../id_rsa"], "holds no '../id_rsa' to include"),
        ([".env"], "'.env' cannot be included: hidden files and checkpoints are not uploaded"),
        (["checkpoint-5"], "'checkpoint-5/model.safetensors' cannot be included"),
        (["cache.pickle"], "pickles are not uploaded"),
        (["training_args.bin"], "pickles are not uploaded"),
        (["link.txt"], "is a link that leaves the folder"),
        ("notes.txt", r"give \['notes.txt'\]"),
    ],
)
def test_what_cannot_be_added(folder, include, message):
    (folder.parent / "id_rsa").write_text(KEY)
    (folder / "link.txt").symlink_to(folder.parent / "id_rsa")
    with pytest.raises(ClipAlignError, match=message):
        plan_upload(folder, include)


@pytest.mark.parametrize("name", ["config.json", "README.md", "tokenizer.json"])
def test_a_link_in_the_place_of_a_model_file_stops_the_push(folder, hub, name):
    (folder.parent / "id_rsa").write_text((folder / name).read_text() if name == "config.json" else KEY)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(folder.parent / "id_rsa")
    with pytest.raises(ClipAlignError, match=rf"{name}' is a link that leaves the folder"):
        push_folder(folder, "tester/linked")
    assert "tester/linked" not in hub.repos


def test_a_link_inside_the_folder_is_followed(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors").symlink_to("weights.safetensors")
    upload = plan_upload(folder)
    assert "model.safetensors" in upload.files
    assert "weights.safetensors" in upload.left_out


@pytest.mark.parametrize("local", LOCAL)
def test_configurations_lose_local_paths_in_any_spelling(local):
    config = {
        "_name_or_path": local,
        "text_config": {"_name_or_path": local, "vocab_file": local},
        "labels": ["and/or", "/m/0k4j"],
        "id2label": {"0": "TCP/IP"},
        "size": [1, 2.5, None, True],
    }
    cleaned = without_local_names(config)
    assert local not in json.dumps(cleaned, ensure_ascii=False)
    assert (cleaned["labels"], cleaned["id2label"], cleaned["size"]) == (
        config["labels"],
        config["id2label"],
        config["size"],
    )


@pytest.mark.parametrize("base", ["openai/clip-vit-base-patch32", "me/x", None])
def test_configurations_keep_the_base_model_on_the_hub(base):
    assert without_local_names({"base_model_name_or_path": base}) == {"base_model_name_or_path": base}


def test_a_token_in_a_card_by_hand_is_masked(folder, hub):
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\nrun with HF_TOKEN={TOKEN} on /data/photos\n")
    push_folder(folder, "tester/by-hand")
    card = hub.repos["tester/by-hand"].files()["README.md"].decode()
    assert TOKEN not in card
    assert "on /data/photos" in card


ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]
KINDS = {
    "adapter": (ADAPTER, ["prompt_average.safetensors", "optimizer.safetensors", "labels.json"]),
    "sentence-transformers": (
        *[["modules.json", "config_sentence_transformers.json", "config.json", "model.safetensors"]],
        ["1_Other/data.csv", "eval/similarity.csv", "1_Dense/notes.txt"],
    ),
    "onnx": (["image.onnx", "image-processor/preprocessor_config.json"], ["image.onnx.log", "deep/image.onnx"]),
    "gcd": (["config.json", "model-00001-of-00002.safetensors"], ["assignments.csv", "teacher.safetensors"]),
    "stock": (["config.json", "model.safetensors"], ["features.safetensors"]),
    "clip": (["config.json", "model.safetensors", "tokenizer.json"], ["loss.safetensors", "run.json"]),
}
CONFIGS = {"gcd": {"model_type": "spectralgcd"}, "stock": {"hf_clipalign": {}}}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_folder_has_its_list(kind, tmp_path):
    kept, left = KINDS[kind]
    for name in (*kept, *left):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(CONFIGS.get(kind, {})))
    upload = plan_upload(tmp_path)
    assert sorted(upload.files) == sorted(kept)
    assert sorted(upload.left_out) == sorted(left)


def test_feature_stores_cannot_be_pushed(tmp_path):
    (tmp_path / "features.json").write_text("{}")
    (tmp_path / "shard-00000.safetensors").write_text("")
    with pytest.raises(ClipAlignError, match=r"holds no config\.json"):
        plan_upload(tmp_path)


def test_an_onnx_file_gets_its_ending(tmp_path):
    assert onnx_path(tmp_path / "clip-b32.v2").name == "clip-b32.v2.onnx"
    assert onnx_path(tmp_path / "a.onnx").name == "a.onnx"
    with pytest.raises(ClipAlignError, match=r"is a folder: give a file"):
        onnx_path(tmp_path)
