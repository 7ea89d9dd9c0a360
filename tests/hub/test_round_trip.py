"""Push in one process, load in others, over HTTP: `author.py` and `reader.py` do the work, the tests look at it."""

from __future__ import annotations

import json
import re

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import ModelCard
from packaging.version import Version

from hf_clipalign.hub import check_card
from tests.hub.conftest import OWN_CARD, Site

ALIGNED_FILES = {
    *("README.md", "config.json", "model.safetensors", "processor_config.json", "spectrum.png"),
    *("tokenizer.json", "tokenizer_config.json"),
}


def card(site: Site, name: str, branch: str = "main") -> ModelCard:
    return ModelCard(site.hub.repos[name].files(branch)["README.md"].decode())


def bodies(site: Site, name: str) -> list[str]:
    return [path for method, path, _ in site.hub.log if method == "POST" and f"/{name}/commit/" in path]


@pytest.mark.parametrize(
    "step",
    ["isoclip", "revision", "private", "stock", "stock text", "lfs", "adapter", "card kept", "card by hand"],
)
def test_push_gives_the_address_of_the_commit(site, step):
    assert re.fullmatch(rf"{site.url}/tester/[\w-]+/commit/[0-9a-f]{{40}}", site.report()[step])


def test_model_card_and_plot_arrive_in_one_commit(site):
    repo = site.hub.repos["tester/isoclip"]
    assert set(repo.files()) == ALIGNED_FILES
    assert len(bodies(site, "tester/isoclip")) == 2  # one for each branch
    assert repo.files()["spectrum.png"].startswith(b"\x89PNG")


def test_card_of_an_aligned_model(site):
    data = check_card(card(site, "tester/isoclip"))
    assert (data.base_model, data.license, data.library_name) == ("tester/mini-student", "apache-2.0", "hf_clipalign")
    assert data["base_model_relation"] == "finetune"
    text = card(site, "tester/isoclip").text
    assert "| image band (k_top, k_bottom) | 1, 48 |" in text
    assert "| text band (k_top, k_bottom) | 1, 64 |" in text
    assert 'AutoModel.from_pretrained("tester/isoclip")' in text
    assert "(spectrum.png)" in text


def test_found_classes_go_through_the_hub(readers):
    repo = readers.hub.repos["tester/gcd"]
    assert set(repo.files()) == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    data = check_card(card(readers, "tester/gcd"))
    assert (data.base_model, data.pipeline_tag) == ("tester/mini-student", "image-classification")
    expected, found = np.load(readers.folder / "found.npy"), np.load(readers.folder / "with.npz")["found classes"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert readers.report("with")["name of a found class"] in ("animal", "novel-1", "novel-2")


def test_card_of_a_stock_export(site):
    data = check_card(card(site, "tester/stock"))
    assert (data.library_name, data.license, data.pipeline_tag) == (
        "transformers",
        "apache-2.0",
        "image-feature-extraction",
    )
    assert "CLIPVisionModelWithProjection" in card(site, "tester/stock").text
    assert "| dimension | 79 |" in card(site, "tester/stock").text
    assert check_card(card(site, "tester/stock-text")).pipeline_tag == "feature-extraction"
    assert set(site.hub.repos["tester/stock"].files()) == ALIGNED_FILES


def test_card_of_an_adapter(site):
    data = check_card(card(site, "tester/lora"))
    assert (data.library_name, data.base_model) == ("peft", "tester/mini-student")
    assert data["base_model_relation"] == "adapter"
    text = card(site, "tester/lora").text
    assert "2407.03056" in text
    assert "A test." in text
    assert "import hf_clipalign.tuners" not in text
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} == set(
        site.hub.repos["tester/lora"].files()
    )


def test_adapter_of_a_local_base_needs_an_address(site):
    assert "base_model='owner/name'" in site.report()["adapter of a folder"]
    assert "tester/lora-of-folder" not in site.hub.repos
    config = json.loads(site.hub.repos["tester/lora-with-base"].files()["adapter_config.json"])
    assert config["base_model_name_or_path"] == "tester/mini-student"


def test_no_pushed_text_holds_a_path_of_this_machine(site):
    for name, repo in site.hub.repos.items():
        for branch in repo.branches:
            for path, data in repo.files(branch).items():
                if path.endswith((".json", ".md")):
                    assert str(site.folder).encode() not in data, f"{name}: {path}"


def test_existing_card_is_kept_unless_asked(site):
    assert site.hub.repos["tester/kept"].files()["README.md"] == OWN_CARD
    assert "model.safetensors" in site.hub.repos["tester/kept"].files()
    assert "# replaced" in card(site, "tester/replaced").text
    assert site.hub.repos["tester/by-hand"].files()["README.md"].endswith(b"A card by hand.\n")


def test_hidden_files_and_pickles_stay_at_home(site):
    assert {".env", "optimizer.pt"}.isdisjoint(site.hub.repos["tester/by-hand"].files())
    assert (site.folder / "own-card" / ".env").is_file()


def test_save_pretrained_pushes_too(site):
    assert set(site.hub.repos["tester/saved"].files()) >= {"README.md", "model.safetensors", "spectrum.png"}


def test_short_name_goes_to_the_own_namespace(site):
    assert site.hub.repos["tester/short"].titles[-1] == "A title"
    assert 'AutoModel.from_pretrained("tester/short")' in card(site, "tester/short").text


def test_private(site):
    assert site.hub.repos["tester/secret"].private
    assert "exists and is public" in site.report()["private onto public"]
    assert site.hub.repos["tester/by-trim"].private


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("commit-500", "error 500"),
        ("info-500", "error 500"),
        ("commit-cut", "connection to the Hub broke"),
        ("no token", "no Hub token"),
        ("wrong token", "does not accept the token (401)"),
        ("reading token", "may not write to 'tester/isoclip' (403)"),
        ("not ours", "may not write to 'someone/else' (403)"),
        ("no name", "write owner/name"),
        ("no folder", "no folder"),
        ("no model", "holds no config.json"),
        ("full disk", "Make room"),
        ("full disk, saving", "Make room"),
        ("full disk, stock", "Make room"),
    ],
)
def test_one_line_says_what_went_wrong(site, step, message):
    said = site.report()[step]
    assert said.startswith("refused: ")
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize("name", ["commit-500", "commit-cut", "info-500", "object-cut-lfs", "full"])
def test_second_try_works(site, name):
    again = "full disk again" if name == "full" else f"{name} again"
    assert site.report()[again].startswith(f"{site.url}/tester/{name}/commit/")
    pushed = site.hub.repos[f"tester/{name}"]
    assert "model.safetensors" in pushed.files()
    assert all(set(tree) in (set(), set(pushed.files())) for tree in pushed.commits.values())


def test_upload_of_a_big_file_survives_a_cut(site):
    """The client itself sends the object again; the first 1.x clients do not, and then one line says so."""
    puts = [status for method, path, status in site.hub.log if method == "PUT" and "object-cut-lfs" in path]
    assert puts[:2] == [0, 200]
    said = site.report()["object-cut-lfs"]
    if Version(huggingface_hub.__version__) < Version("2.0"):
        assert "the connection to the Hub broke" in said
    else:
        assert said.startswith(site.url)


def test_refused_pushes_leave_nothing(site):
    assert site.report()["left behind"] == []
    for name in ("no-token", "wrong-token", "nowhere", "nothing"):
        assert f"tester/{name}" not in site.hub.repos
    assert len(site.hub.repos["tester/isoclip"].commits) == 3  # the empty one, main, narrow


def test_commands(site):
    report = site.report()
    assert report["trim"][0] == report["trim stock"][0] == report["push"][0] == 0
    assert set(site.hub.repos["tester/by-trim"].files("dev")) == ALIGNED_FILES
    assert site.hub.repos["tester/by-trim"].files("main") == {}
    assert "config.json" in site.hub.repos["tester/by-trim-stock"].files()
    assert "spectrum.png" in report["trimmed files"]
    assert "README.md" not in report["trimmed files"]
    code, said = report["trim without target"]
    assert (code, "--push-to-hub" in said) == (1, True)
    assert report["push nothing"][0] == 1


def test_push_command_puts_results_on_the_card(site):
    data = check_card(card(site, "tester/by-push"))
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("mean_average_precision", 50.0),
        ("recall_at_1", 50.0),
    ]
    assert data.eval_results[0].dataset_name == "photos"
    for name in ("push results onto a kept card", "push results beside a card"):
        assert site.report()[name][0] == 1
        assert "nothing was pushed" in site.report()[name][1]
    assert len(site.hub.repos["tester/by-hand"].commits) == 2
    code, said = site.report()["push wrong results"]
    assert (code, "is no results.json" in said) == (1, True)


def test_fresh_process_loads_the_aligned_model(readers):
    expected, found = np.load(readers.folder / "expected.npz"), np.load(readers.folder / "with.npz")
    for name in ("image", "text", "logits"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found["image by lfs"], expected["image"], atol=1e-4, rtol=1e-4)
    report = readers.report("with")
    assert (report["class"], report["processor"]) == ("IsoCLIPModel", "CLIPProcessor")
    assert report["bands of main"] == [1, 48]
    assert report["bands of the revision"] == [2, 20]


def test_private_repository_is_loaded_with_a_token_only(readers):
    report = readers.report("with")
    assert report["private with token"] == "IsoCLIPModel"
    assert "cannot load the model 'tester/secret'" in report["private without token"]
    assert "hf auth login" in report["private without token"]
    assert "\n" not in report["private without token"]


def test_stock_classes_load_without_the_package(readers):
    expected, found = np.load(readers.folder / "expected.npz"), np.load(readers.folder / "without.npz")
    report = readers.report("without")
    assert report["modules of the package"] == []
    assert report["processor"] == "CLIPProcessor"
    assert report["facts"]["band"] == [1, 48]
    np.testing.assert_allclose(found["text"], expected["text"], atol=1e-4, rtol=1e-4)
    assert found["image"].shape == (3, 79)
    np.testing.assert_allclose(cosines(found["image"]), cosines(expected["image"]), atol=1e-5)
    np.testing.assert_allclose(found["adapter"], np.load(readers.folder / "adapter.npy"), atol=1e-3, rtol=1e-4)
    assert not np.allclose(found["adapter"], expected["logits"], atol=1e-2)


def test_snippets_of_the_cards_run(readers):
    report = readers.report("with")
    assert report["snippets"] == [3, 128]
    assert report["snippets of the adapter"] == [3, 128]
    assert report["snippets of the export"] == [3, 79]
    report = readers.report("without")
    assert report["snippet of the image tower"] == [3, 79]
    assert report["snippet of the text tower"] == [2, 128]


def cosines(features: np.ndarray) -> np.ndarray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit @ unit.T
