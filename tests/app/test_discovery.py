"""The classes of a SpectralGCD model as the groups of a folder."""

import base64
import csv
import io
import re

import numpy as np
import pytest
import torch

from hf_clipalign import ClipAlignError
from hf_clipalign.app.discovery import Discovery
from hf_clipalign.app.folder_report import Concepts
from hf_clipalign.app.views.reports import folder_page
from hf_clipalign.data import load_mini
from hf_clipalign.gcd import SpectralGCDModel

CONCEPTS = ["heart", "cat", "boat", "apple", "umbrella", "cactus"]


def quiet(share, text):
    pass


@pytest.fixture(scope="module")
def model(photos):
    """A model of two known classes and one that it found, which knows what sets them apart."""
    mini = load_mini()
    torch.manual_seed(0)
    made = SpectralGCDModel.from_student(
        mini.student, CONCEPTS, ["hearts", "animals"], 2, processor=mini.student_processor, hidden_size=16,
        mlp_hidden_size=16, bottleneck_size=8,
    )  # fmt: skip
    similarities = torch.zeros(40, len(CONCEPTS))
    classes = torch.arange(40) % 4
    similarities[torch.arange(40), torch.tensor([0, 1, 2, 5])[classes]] = 9.0
    made.describe_classes(similarities, classes)
    return made


@pytest.fixture
def discovery(model):
    return Discovery(model, "found")


def test_the_groups_are_the_classes_of_the_model_with_its_names(workspace, discovery, model):
    found = discovery.clusters(workspace.view, quiet)
    files = workspace.view.files
    paths = [files.path(workspace.view.files_of(row)[0]) for row in range(len(workspace.view))]
    expected = model.predict(paths)
    labels = {row: cluster.names[0] for cluster in found for row in cluster.rows.tolist()}
    assert labels == {row: one.label for row, one in enumerate(expected)}
    for cluster in found:
        np.testing.assert_allclose(
            cluster.probabilities, [expected[row].probability for row in cluster.rows], rtol=1e-4
        )
        assert list(cluster.probabilities) == sorted(cluster.probabilities, reverse=True)
        is_known = cluster.names[0] in ("hearts", "animals")
        assert cluster.kind == ("a known class of the model" if is_known else "a class that the model found")
    assert [cluster.size for cluster in found] == sorted((cluster.size for cluster in found), reverse=True)


def test_images_are_sorted_once(workspace, discovery, monkeypatch):
    steps = []
    first = discovery.clusters(workspace.view, lambda share, text: steps.append((share, text)))
    assert steps[0] == (0.0, f"sorting images: 0 of {len(workspace.view)}")
    monkeypatch.setattr(SpectralGCDModel, "predict", lambda *given, **named: pytest.fail("sorted again"))
    again = discovery.clusters(workspace.view, quiet)
    assert [cluster.rows.tolist() for cluster in again] == [cluster.rows.tolist() for cluster in first]


def test_an_image_that_cannot_be_read_again_is_in_no_group(workspace, discovery, monkeypatch):
    from hf_clipalign import data

    read, bad = data.read_image, workspace.view.files.path(0)

    def broken(path):
        if path == bad:
            raise ClipAlignError("gone")
        return read(path)

    monkeypatch.setattr(data, "read_image", broken)
    row = int(workspace.view.files.images[0])
    sorted_rows = {row for cluster in discovery.clusters(workspace.view, quiet) for row in cluster.rows.tolist()}
    assert sorted_rows == set(range(len(workspace.view))) - {row}
    monkeypatch.setattr(data, "read_image", read)
    assert row in {row for cluster in discovery.clusters(workspace.view, quiet) for row in cluster.rows.tolist()}
    monkeypatch.setattr(data, "read_image", lambda path: broken(bad))
    with pytest.raises(ClipAlignError, match="none of the images can be read again"):
        Discovery(discovery.model, "found").clusters(workspace.view, quiet)


def test_the_page_shows_concepts_and_the_classes_of_the_model(workspace, discovery):
    concepts, steps = Concepts(workspace, discovery), []
    html = folder_page(workspace.view, concepts, ", ".join(CONCEPTS), 0, 0, lambda share, text: steps.append(share))
    assert "What tells the images apart" in html
    assert steps == sorted(steps)
    names = {cluster.names[0] for cluster in discovery.clusters(workspace.view, quiet)}
    groups = html.partition("Groups of images")[2]
    assert all(f"<h3>{name}</h3>" in groups for name in names)
    assert "of the model" in groups or "the model found" in groups
    address = re.search(r'download="groups.csv" href="[^,]+,([\w+/=]+)"', html)[1]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(address).decode())))
    assert {row["group"] for row in rows} == names
    assert len(rows) == len(workspace.view.files), "each file stands in the table, also one of equal bytes"
    assert all(0 < float(row["probability"]) <= 1 for row in rows)


def test_groups_by_kmeans_can_be_exported_too(workspace):
    html = folder_page(workspace.view, Concepts(workspace), ", ".join(CONCEPTS), 0, 3, quiet)
    address = re.search(r'download="groups.csv" href="[^,]+,([\w+/=]+)"', html)[1]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(address).decode())))
    assert len(rows) == len(workspace.view.files)
    assert {row["probability"] for row in rows} == {""}
