"""Cards without a Hub: what they say, what they refuse, and the rendered examples in `model_cards/`."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_clipalign import ClipAlignError, IsoCLIPModel
from hf_clipalign.data import load_mini
from hf_clipalign.evaluation.reports.pages import ReportTable
from hf_clipalign.hub import (
    CardEvaluation,
    ModelCardInfo,
    build_card,
    check_card,
    describe_folder,
    read_evaluations,
    retrieval_evaluation,
)
from hf_clipalign.hub.cards import KINDS
from hf_clipalign.hub.folders import describe_folder as describe
from hf_clipalign.papers import PAPERS, paper

REPOSITORY = Path(__file__).parent.parent.parent
CARDS = ("mini-student", "mini-teacher", "isoclip-mini-student", "isoclip-mini-student-image")
SCORE = {
    "metrics": {"map": 0.5, "recall_at_1": 0.25},
    "map_interval": [0.4, 0.6],
    "gain_interval": [0.0, 0.2],
    "per_task": {"data": 0.5},
}
COMPARISON = {
    "scores": [{"head": head, "width": 8, "gain": 0.1, **SCORE} for head in ("raw", "isoclip")],
    "tasks": ["data"],
    "n_queries": 4,
    "n_without_positive": 0,
    "without_positive": [],
}


def info(**changes) -> ModelCardInfo:
    facts = {
        "kind": "isoclip",
        "name": "aligned",
        "load_from": "me/aligned",
        "model_class": "CLIPVisionModelWithProjection",
        "base_model": "openai/clip",
        "licence": "mit",
    }
    return ModelCardInfo(**{**facts, "method": "isoclip", "image_band": (150, 50), **changes})


def render():
    """The script that renders the examples, as a module."""
    spec = importlib.util.spec_from_file_location("render", REPOSITORY / "examples" / "render_model_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    return {one.name: str(build_card(one)) for one in render().all_cards()}


@pytest.mark.parametrize("name", CARDS)
def test_examples_are_as_rendered_from_the_checked_in_numbers(rendered, name):
    assert (REPOSITORY / "model_cards" / name / "README.md").read_text(encoding="utf-8") == rendered[name]


@pytest.mark.parametrize("name", CARDS)
def test_metadata_of_the_examples(name):
    text = (REPOSITORY / "model_cards" / name / "README.md").read_text(encoding="utf-8")
    data = check_card(text)
    assert data.license == "apache-2.0"
    assert len(data.eval_results) in (3, 6)
    assert data.to_dict() == yaml.safe_load(text.split("---\n")[1])


def test_examples_show_the_measured_numbers(rendered):
    results = json.loads((REPOSITORY / "model_cards" / "results.json").read_text(encoding="utf-8"))["student"]
    measured = {score["head"]: score for score in results["image_image"]["scores"]}
    for name, head in (("mini-student", "raw"), ("isoclip-mini-student", "isoclip"), (CARDS[3], "isoclip-compact")):
        value = ModelCard(rendered[name]).data.eval_results[0].metric_value
        assert value == pytest.approx(100 * measured[head]["metrics"]["map"], abs=0.01)
    band = results["image_band"]
    assert f"| image band (k_top, k_bottom) | {band[0]}, {band[1]} |" in rendered["isoclip-mini-student"]


@pytest.mark.parametrize("name", CARDS)
def test_images_of_the_examples_are_there(rendered, name):
    shown = "(spectrum.png)" in rendered[name]
    assert shown == (REPOSITORY / "model_cards" / name / "spectrum.png").is_file()


def test_aligned_card():
    card = build_card(info(has_spectrum=True, limits=["Only for tests."], tags=["clip", "mine"]))
    assert card.data.base_model == "openai/clip"
    assert card.data["base_model_relation"] == "finetune"
    assert card.data.tags == [
        "hf_clipalign",
        "clip",
        "isoclip",
        "mine",
        "image-retrieval",
        "training-free",
        "arxiv:2603.19862",
    ]
    for part in ("150, 50", "- Only for tests.", "![Spectrum", "arxiv.org/abs/2603.19862", "mit", "save_stock"):
        assert part in card.text
    assert "None" not in card.text


def test_card_of_a_text_model_uses_texts():
    text = build_card(
        info(image_band=None, text_band=(20, 100), modality="text", model_class="CLIPTextModelWithProjection")
    ).text
    assert "get_text_features" in text
    assert "get_image_features" not in text
    assert ".text_embeds" in text


def test_stock_snippet_by_class():
    siglip = build_card(info(kind="stock", model_class="SiglipVisionModel")).text
    assert "SiglipVisionModel.from_pretrained" in siglip
    assert ".pooler_output" in siglip
    assert ".image_embeds" not in siglip
    assert "has no class for one aligned tower" in build_card(info(model_class=None)).text


@pytest.mark.parametrize(
    ("architecture", "tower"),
    [("CLIPModel", "CLIPVisionModelWithProjection"), ("SiglipModel", "SiglipVisionModel"), ("MyModel", None)],
)
def test_tower_class_of_a_family(tmp_path, architecture, tower):
    config = {"model_type": "isoclip", "image_band": [1, 2], "clip_config": {"architectures": [architecture]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert describe_folder(tmp_path).model_class == tower


def test_card_of_a_method_that_only_this_package_knows():
    card = build_card(info(kind="adapter", method="kdpl", image_band=None, needs_package=True))
    assert "import hf_clipalign.tuners" in card.text
    assert "KeyError" in card.text
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "zero-shot-image-classification"


def test_card_of_a_learned_prompt_shows_both_papers_the_command_and_the_template():
    facts = {"method": "coop", "also_cites": ["kdpl"], "command": "python train.py", "template": "a sketch of a {}."}
    card = build_card(info(kind="adapter", image_band=None, needs_package=True, **facts))
    assert card.data.tags == ["hf_clipalign", "clip", "coop", "kdpl", "arxiv:2109.01134", "arxiv:2407.03056"]
    citation = card.text.split("## Citation")[1]
    assert citation.index(paper("coop").bibtex) < citation.index(paper("kdpl").bibtex)
    assert "```bash\npython train.py\n```" in card.text
    assert 'hypothesis_template="a sketch of a {}."' in card.text
    assert 'pipeline("zero-shot-image-classification", model="me/aligned")' in card.text


def test_paths_of_this_machine_stay_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = (
        f"python train.py --data {tmp_path.parent}/photos/ --captions=/data/my.json --out {tmp_path}/run "
        f"--teacher '/srv/our models/big' --lr 1e-3 --note 'a photo / of {{}}' --list ../a/b.txt~ ~/clip https://hf.co/x"
    )
    card = build_card(
        info(command=command, evaluations=[CardEvaluation("On /data/test set", [], verdict="`x --d /a/b`.")])
    )
    assert (
        "python train.py --data … --captions=… --out … --teacher … --lr 1e-3 "
        "--note 'a photo / of {}' --list … … https://hf.co/x\n"
    ) in card.text
    assert "### On … set" in card.text
    assert "`x --d …`." in card.text
    assert str(tmp_path.parent) not in card.text


def test_unknown_licence_is_said_and_not_invented():
    card = build_card(info(licence=None))
    assert card.data.license is None
    assert "was not recorded" in card.text


def test_local_base_stays_out_of_the_metadata():
    card = build_card(info(base_model="my model folder"))
    assert card.data.base_model is None
    assert "base_model" not in str(card).split("---\n")[1]


def test_no_processor_means_the_base_models():
    text = build_card(info(has_processor=False)).text
    assert 'AutoProcessor.from_pretrained("openai/clip")' in text


def test_cells_cannot_break_the_table():
    assert "| a | x\\|y z |" in build_card(info(parameters={"a": "x|y\nz"})).text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "onnx"}, "unknown kind"),
        ({"method": "magic"}, "no paper is known"),
        ({"also_cites": ["magic"]}, "no paper is known"),
        ({"modality": "sound"}, "unknown modality"),
        ({"kind": "stock", "model_class": None}, "needs model_class"),
    ],
)
def test_unknown_facts_are_refused(changes, message):
    with pytest.raises(ClipAlignError, match=message):
        info(**changes)


def test_result_that_is_no_number_is_refused():
    result = EvalResult("retrieval", "data", "Data", "map", "n/a")
    with pytest.raises(ClipAlignError, match="is no number"):
        build_card(info(evaluations=[CardEvaluation("t", [result])]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Only a title\n", "no metadata"),
        ("---\ntags: [a\n---\n", "cannot be read"),
        ("---\nlibrary_name: peft\ntags: [a]\n---\n", "lack 'pipeline_tag'"),
        ("---\nlibrary_name: a\npipeline_tag: b\ntags: [c]\nbase_model: /home/me/clip\n---\n", "no Hub id"),
        ("---\nlibrary_name: a\npipeline_tag: b\ntags: [c]\nmodel-index:\n- name: x\n---\n", "cannot be read"),
    ],
)
def test_broken_cards_are_found(text, message):
    with pytest.raises(ClipAlignError, match=message):
        check_card(text)


def test_results_survive_the_metadata():
    evaluation = retrieval_evaluation(
        COMPARISON, "isoclip", dataset_name="My photos", dataset_type="me/photos", verdict="V."
    )
    card = build_card(info(evaluations=[evaluation]))
    assert ModelCard(str(card)).data.eval_results == evaluation.results
    assert [result.metric_value for result in evaluation.results] == [50.0, 25.0]
    assert "| isoclip | 8 | 50.0 |" in card.text
    assert "V." in card.text


def test_head_that_was_not_measured():
    with pytest.raises(ClipAlignError, match="hold no head 'isoclip-compact', only 'raw', 'isoclip'"):
        retrieval_evaluation(COMPARISON, "isoclip-compact", dataset_name="d", dataset_type="d")


def test_results_of_another_band_are_refused(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"task": "image-image", "band": [1, 2], "data": "d", "comparison": COMPARISON}))
    with pytest.raises(ClipAlignError, match=r"measured with the image band \[1, 2\]"):
        read_evaluations(file, info())
    assert read_evaluations(file, info(image_band=(1, 2)))[0].results[0].metric_value == 50.0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"task": "zero-shot"}'])
def test_files_that_are_no_results(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ClipAlignError, match=r"is no results\.json"):
        read_evaluations(tmp_path / "results.json", info())


@pytest.mark.parametrize(
    "damage",
    [
        *({"scores": []}, {"scores": None}, {"tasks": 1}, {"n_queries": "x"}, {"without_positive": [1]}),
        *({"scores": [{**COMPARISON["scores"][1], "metrics": {"map": "x" * 3000}}]},),
        *({"scores": [COMPARISON["scores"][0], {**COMPARISON["scores"][1], "metrics": {"recall_at_5": 0.1}}]},),
        *({"scores": [{**COMPARISON["scores"][1], "map_interval": [0.1]}]},),
    ],
)
def test_damaged_results_are_one_clear_error(tmp_path, damage):
    results = {"task": "image-image", "band": [150, 50], "data": "d", "comparison": {**COMPARISON, **damage}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ClipAlignError, match="comparison of heads") as caught:
        read_evaluations(tmp_path / "results.json", info())
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300


@pytest.mark.parametrize("damage", [{"image_band": [3]}, {"image_band": 0.5}, {"clip_config": {"architectures": [3]}}])
def test_damaged_configurations_are_one_clear_error(tmp_path, damage):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "isoclip", **damage}))
    with pytest.raises(ClipAlignError, match=f"it says that {next(iter(damage))}"):
        describe_folder(tmp_path)


def test_saved_folders_describe_themselves(tmp_path):
    mini = load_mini()
    model = IsoCLIPModel.from_clip_pretrained(mini.student, image_band=(1, 48))
    model.save_pretrained(tmp_path / "aligned")
    model.save_stock(tmp_path / "stock", compact=True, processor=mini.student_processor)
    aligned, stock = describe_folder(tmp_path / "aligned", "me/aligned"), describe_folder(tmp_path / "stock")
    assert (aligned.kind, aligned.image_band, aligned.text_band) == ("isoclip", (1, 48), None)
    assert aligned.model_class == stock.model_class
    assert (aligned.has_processor, aligned.base_model, aligned.name) == (True, None, "aligned")
    assert (stock.kind, stock.compact, stock.image_band, stock.has_processor) == ("stock", True, (1, 48), True)
    assert stock.model_class == "CLIPVisionModelWithProjection"
    assert describe(mini.student_path).kind == "clip"
    build_card(aligned)
    build_card(replace(stock, evaluations=[]))


def test_an_adapter_names_its_base_model(tmp_path):
    config = {"peft_type": "LORA", "base_model_name_or_path": "openai/clip-vit-base-patch32", "r": 4}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    info = describe_folder(tmp_path)
    assert (info.kind, info.base_model) == ("adapter", "openai/clip-vit-base-patch32")
    assert (info.parameters["adapter type"], info.parameters["r"]) == ("LORA", 4)


def test_folder_with_broken_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ClipAlignError, match="cannot read"):
        describe_folder(tmp_path)


@pytest.mark.parametrize("key", sorted(PAPERS))
def test_papers_can_be_cited(key):
    entry = paper(key).bibtex
    assert entry.startswith("@misc{" + key)
    assert entry.count("{") == entry.count("}")
    assert paper(key).arxiv in entry
    assert paper(key).title in entry


TOKEN = "hf_" + "AbCdEf0123456789" * 2
HOSTILE = (
    "x](javascript:alert(1)) <script>alert(2)</script> ![i](http://evil/x.png)\n\n# Owned\n---\nlicense: evil\n---\n"
    f"```\n`a` \\`<img src=x>` | b | [r]: http://evil {TOKEN} ../data/mrn123 ~alice/mrn123 file:///mrn123 "
    r"C:\Users\mrn123 \\share\mrn123 data/mrn123.csv /home/mrn123" + "\u2028# Owned"
)

FOLDER = '../data/mrn123/<script>x](javascript:alert(1))" + evil()\n# Owned'


def hostile(kind: str) -> ModelCardInfo:
    result = EvalResult("retrieval", HOSTILE, HOSTILE, "map", 1.0, metric_name=HOSTILE, task_name=HOSTILE)
    table = ReportTable([HOSTILE, "b"], [[HOSTILE, "1"]], HOSTILE)
    return info(
        kind=kind,
        name=HOSTILE,
        load_from=FOLDER,
        base_model=FOLDER,
        base_from=FOLDER,
        description=HOSTILE,
        parameters={HOSTILE: HOSTILE, "list": [HOSTILE]},
        command=f"python a.py --hub_token {TOKEN} --data ../data/mrn123 --note '{HOSTILE}'",
        template=HOSTILE,
        needs_package=True,
        evaluations=[CardEvaluation(HOSTILE, [result], table, HOSTILE)],
        limits=[HOSTILE],
        licence=HOSTILE,
        licence_note=HOSTILE,
        tags=[HOSTILE],
    )


def outside_code(text: str) -> str:
    """The Markdown without its code, in fences and in lines."""
    text = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_filled_in_is_interpreted_or_tells_secrets(kind):
    card = build_card(hostile(kind))
    text = str(card)
    assert TOKEN not in text
    assert "mrn123" not in text
    assert card.data.license != "evil"
    body = outside_code(card.text)
    assert "<" not in body
    assert "javascript:" not in body
    assert not re.search(r"\]\((?!https://(arxiv|huggingface|pypi))(?!spectrum)", body)
    assert not re.search(r"^(#+ Owned|---)", body, flags=re.MULTILINE)
    assert not re.search(r"^\s*\[.*\]:", body, flags=re.MULTILINE)
    for row in (line for line in body.splitlines() if line.startswith("| ")):
        assert len(re.split(r"(?<!\\)\|", row)) == 4
    for block in re.findall(r"^```python\n(.*?)^```$", card.text, flags=re.MULTILINE | re.DOTALL):
        strings = [node.value for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant)]
        assert ("script" in block) <= any("script" in value for value in strings if isinstance(value, str))
    again = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert set(again) <= {"base_model", "base_model_relation", "license", "library_name", "pipeline_tag", "tags"} | {
        "model-index"
    }


@pytest.mark.parametrize("name", ["CLIPModel\nimport os", 'X")', "a b", ""])
def test_names_of_classes_are_names(name):
    with pytest.raises(ClipAlignError, match="is not the name of a model class"):
        info(kind="clip", model_class=name)


def test_emoji_and_code_stay():
    text = build_card(info(description="A family 👨‍👩‍👧: `x < y`, 50 % [0.1, 0.2] of a*b.", name="ü")).text
    assert "A family 👨‍👩‍👧: `x < y`, 50 % [0.1, 0.2] of a*b." in text


@pytest.mark.parametrize(
    "base", ["/home/mrn123/clip", r"C:\mrn123\clip", "data/clip", "file:///mrn123/clip", "~a/clip"]
)
def test_a_local_base_model_is_told_by_its_last_name(base):
    card = build_card(info(kind="adapter", base_model=base, image_band=None))
    assert card.data.base_model is None
    assert 'from_pretrained("clip")' in card.text
    assert base not in card.text.replace("\\\\", "\\")
    assert "mrn123" not in str(card)


def test_a_setting_that_names_a_secret_is_hidden():
    text = build_card(info(parameters={"hub_token": "abc", "nested": {"api_key": "abc"}, "epochs": 3})).text
    assert "| hub_token | … |" in text
    assert "abc" not in text
    assert "| epochs | 3 |" in text
