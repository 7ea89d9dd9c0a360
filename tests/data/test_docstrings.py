"""The example of every public name of the data room runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil

import pytest
from PIL import Image

import hf_clipalign.data
from tests.test_docstrings import FencedExamples

FILES = {
    "table.csv": "image,kind\nphotos/cat/1.png,pet\nphotos/dog/1.png,pet\nphotos/owl/1.png,wild\n",
    "captions.csv": "image,caption\ncat.png,a cat\ncat.png,a red cat\ndog.png,a dog\n",
    "prompts.yaml": "Edema:\n  positive: [fluid in the lungs]\n  negative: [clear lungs]\n",
    "train.csv": "Path,Frontal/Lateral,Cardiomegaly,Edema\n"
    "train/patient00001/study1/view1_frontal.jpg,Frontal,,\n"
    "train/patient00002/study2/view1_frontal.jpg,Frontal,-1.0,1.0\n"
    "train/patient00002/study2/view2_lateral.jpg,Lateral,0.0,1.0\n",
    "mimic-chexpert.csv": "subject_id,study_id,Edema\n10000032,50414267,1.0\n10000032,53189527,-1.0\n",
    "mimic-split.csv": "dicom_id,study_id,subject_id,split\n"
    "02aa804e,50414267,10000032,train\n2a2277a9,53189527,10000032,test\n",
    "retrieval/queries.jsonl": json.dumps({"_id": "q", "text": "what purrs?"}),
    "retrieval/corpus.jsonl": '{"_id": "1", "text": "a dog"}\n{"_id": "2", "text": "a cat"}\n',
    "retrieval/qrels.tsv": "query-id\tcorpus-id\tscore\nq\t2\t1\n",
}
MODULES = [module.name for module in pkgutil.walk_packages(hf_clipalign.data.__path__, "hf_clipalign.data.")]
PUBLIC = [
    name
    for name in hf_clipalign.data.__all__
    if inspect.isclass(getattr(hf_clipalign.data, name)) or inspect.isfunction(getattr(hf_clipalign.data, name))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the examples open."""
    root = tmp_path_factory.mktemp("examples")
    images = [f"photos/{kind}/{number}.png" for kind in ("cat", "dog", "owl") for number in range(1, 5)]
    for name in (*images, "pairs/cat.png", "pairs/dog.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(root / name)
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def examples(name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(parser=FencedExamples(), exclude_empty=True)
    return [test for test in finder.find(importlib.import_module(name)) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name, place, monkeypatch) -> None:
    monkeypatch.chdir(place)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples(name):
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example_and_names_what_it_takes(name) -> None:
    documented = getattr(hf_clipalign.data, name).__doc__ or ""
    assert ">>> " in documented
    if inspect.isfunction(getattr(hf_clipalign.data, name)):
        for parameter in inspect.signature(getattr(hf_clipalign.data, name)).parameters:
            assert parameter.removesuffix("_kwargs") in documented
