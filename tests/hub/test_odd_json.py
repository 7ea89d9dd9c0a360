"""JSON of other people in folders that are pushed or replaced: one line, and nothing leaks that cannot be read."""

from __future__ import annotations

import contextlib
import json

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.evaluation import ResultTable
from hf_clipalign.hub import plan_upload, written_folder
from hf_clipalign.hub.published import published
from hf_clipalign.isoclip import known_bands

DEEP = "[" * 100_000


def write(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_a_deep_adapter_configuration_is_no_run_of_retune(tmp_path):
    folder = write(tmp_path / "adapter", adapter_config__json=DEEP, adapter_model__safetensors="x")
    assert set(plan_upload(folder).files) == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("text", [DEEP, '{"a": ', "NaN,", '{"a":' * 5000 + "1" + "}" * 5000])
def test_what_is_no_json_loses_its_paths_too(tmp_path, text):
    file = write(tmp_path / "model", config__json=text) / "config.json"
    assert published("config.json", file, tmp_path) == file
    file.write_text(f"{text} /home/me/mrn123/x.json hf_{'AbCdEf0123456789' * 2}")
    content = published("config.json", file, tmp_path)
    assert isinstance(content, bytes)
    assert b"mrn123" not in content
    assert b"AbCdEf" not in content


@pytest.mark.parametrize("facts", ["[]", "{", '{"hf_clipalign": "x"}', '{"hf_clipalign": [1]}', DEEP])
def test_an_index_with_odd_facts_is_not_replaced(tmp_path, facts):
    out = write(tmp_path / "out", index__faiss="mine", index__json=facts)

    def replace():
        with written_folder(out, "faiss") as folder:
            (folder / "index.faiss").write_text("new")
            (folder / "index.json").write_text(json.dumps({"hf_clipalign": {"modality": "image"}}))

    with pytest.raises(ClipAlignError, match=r"index\.json|made from another model") as caught:
        replace()
    assert "\n" not in str(caught.value)
    assert (out / "index.faiss").read_text() == "mine"


@pytest.mark.parametrize("part", ["[1]", '"x"', "5", "null"])
@pytest.mark.parametrize("kind", ["", '"model_type": "clip", ', '"model_type": ["clip"], '])
def test_odd_sizes_of_a_copy_are_no_crash(tmp_path, part, kind):
    config = f'{{"_name_or_path": "openai/clip-vit-base-patch32", {kind}"vision_config": {part}}}'
    folder = write(tmp_path / "copy", config__json=config)
    with contextlib.suppress(ClipAlignError):
        known_bands(folder)


def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path):
    config = '{"_name_or_path": "openai/clip-vit-base-patch32", "model_type": "clip", "vision_config": "x"}'
    with pytest.raises(ClipAlignError, match=r"the config\.json cannot be read: ") as caught:
        known_bands(write(tmp_path / "copy", config__json=config))
    assert "\n" not in str(caught.value)


def test_a_card_with_a_number_that_takes_long_to_read_names_no_base(tmp_path):
    card = "---\nbase_model: 1" + ":1" * 100_000 + "\n---\n"
    assert known_bands(write(tmp_path / "copy", config__json="{}", README__md=card)) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "5", DEEP, '{"title": "a", "note": ""}', '{"title": 5, "note": "", "scores": {}}'),
        '{"title": "a", "note": "", "scores": {"row": {"test": {"one": 0.5}}}}',
        '{"title": "a", "note": "", "scores": {"row": {"test": {"0": "x"}}}}',
        '{"title": "a", "note": "", "scores": {"row": [1]}}',
    ],
)
def test_what_is_no_table_of_results(text):
    with pytest.raises(ClipAlignError, match="this is no table of results: ") as caught:
        ResultTable.from_json(text)
    assert "\n" not in str(caught.value)
