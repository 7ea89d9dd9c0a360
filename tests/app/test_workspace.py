"""A collection that is opened or made in the background, and what is in it."""

import os

import numpy as np
import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.app.clusters import clusters
from hf_clipalign.app.folder_report import Concepts
from hf_clipalign.app.views.panels import Page, guarded
from hf_clipalign.app.views.reports import duplicates_page, folder_page
from hf_clipalign.app.workspace import Progress, Workspace, describe
from hf_clipalign.data import load_mini
from hf_clipalign.search import ImageIndex

WORDS = ["heart", "cat", "sailboat", "locomotive", "apple", "umbrella", "cactus"]


def made(open_index, **options):
    return Workspace(open_index, **({"is_to_update": False, "template": "an emoji of {}"} | options))


def page_of(workspace):
    return Page(workspace, uploads=None, concepts=Concepts(workspace))


def test_before_it_is_ready_a_query_says_how_far_it_is():
    workspace = made(lambda: None)
    assert workspace.progress() == Progress("embedding")
    with pytest.raises(ClipAlignError, match="Looking for images"):
        workspace.view  # noqa: B018
    assert describe(Progress("embedding", 1200, 5000)).startswith("Embedding images: 1,200 of 5,000.")
    shown = page_of(workspace).header()
    assert "Looking for images" in shown
    assert guarded(page_of(workspace).search)("cat", "", 0, 0, 5, "").count('role="alert"') == 1


def test_progress_counts_the_images_that_are_embedded(photos, tmp_path):
    """Batch by batch, also within one shard."""
    seen = []

    class Watched(Workspace):
        def _note_progress(self, done, total):
            super()._note_progress(done, total)
            seen.append(self.progress())

    def opened():
        return ImageIndex.create(photos / "noto", load_mini().student_path, tmp_path / "index", head="raw")

    n = len(list((photos / "noto").iterdir()))
    workspace = Watched(opened, is_to_update=True, template="{}")
    assert workspace.is_waiting
    workspace.prepare()
    assert seen == [Progress("embedding", 0, n), Progress("embedding", n, n)]
    assert workspace.progress() == Progress("ready", n, n)
    assert not workspace.is_waiting


@pytest.mark.parametrize("error", [ClipAlignError("no such index."), OSError("disk gone"), KeyError("x")])
def test_a_failure_in_the_background_is_shown(error):
    def opened():
        raise error

    workspace = made(opened)
    workspace.prepare()
    assert workspace.progress().state == "failed"
    assert str(error) in workspace.progress().message
    header = page_of(workspace).header()
    assert 'role="alert"' in header


def test_an_empty_folder_is_said(tmp_path):
    (tmp_path / "empty").mkdir()

    def opened():
        return ImageIndex.create(tmp_path / "empty", load_mini().student_path, tmp_path / "index")

    workspace = made(opened, is_to_update=True)
    workspace.prepare()
    assert workspace.progress().message.startswith("there are no images in")


def test_one_image_can_be_searched_but_has_nothing_to_be_told_apart_from(tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (30, 30), "teal").save(tmp_path / "one" / "a.png")
    (tmp_path / "one" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")

    def opened():
        return ImageIndex.create(tmp_path / "one", load_mini().student_path, tmp_path / "index")

    workspace = made(opened, is_to_update=True)
    workspace.prepare()
    page = page_of(workspace)
    assert "a.png" in page.search("cat", "", 0, 0, 12, "")
    assert "no good match: there is no other image." in page.search("a.png", "", 0, 0, 12, "")
    assert "1 file is left out" in page.header()
    assert "No duplicates" in duplicates_page(workspace.view, 0.95)
    with pytest.raises(ClipAlignError, match="at least two"):
        folder_page(workspace.view, Concepts(workspace), ",".join(WORDS), 0, 3, lambda share, text: None)


def test_the_sliders_begin_with_the_index_s_band(workspace):
    assert page_of(workspace).band() == (1, 48)


def test_without_a_band_they_begin_with_a_suggestion(workspace, monkeypatch):
    monkeypatch.setattr(ImageIndex, "band", None)
    k_top, k_bottom = page_of(workspace).band()
    assert 0 < k_top + k_bottom < workspace.view.bands.rank


def test_concepts_tell_the_images_apart_and_name_the_groups(workspace, monkeypatch):
    steps = []
    report = Concepts(workspace).report(WORDS, 7, 5, 3, lambda share, text: steps.append(share))
    assert report.note == ""
    assert {concept.name for concept in report.concepts} <= set(WORDS)
    assert [concept.share for concept in report.concepts] == sorted((c.share for c in report.concepts), reverse=True)
    names = workspace.view.files.names
    heart = next(concept for concept in report.concepts if concept.name == "heart")
    assert all("heart" in names[workspace.view.files_of(row)[0]] for row in heart.rows)
    assert sum(cluster.size for cluster in report.clusters) == len(workspace.view)
    assert steps == sorted(steps)
    of_hearts = next(cluster for cluster in report.clusters if "heart" in cluster.names[0])
    assert "heart" in names[workspace.view.files_of(of_hearts.rows[0])[0]]


def test_words_are_embedded_once(workspace, monkeypatch):
    concepts = Concepts(workspace)
    concepts.report(WORDS, 0, 5, 3)
    monkeypatch.setattr(type(workspace), "encode_texts", lambda *given: pytest.fail("embedded again"))
    assert concepts.report(WORDS, 0, 5, 3).clusters == []


def test_more_groups_than_images_are_as_many_as_images(workspace):
    texts = np.eye(workspace.view.plain.width, dtype=np.float32)[:2]
    found = clusters(workspace.view, texts, ["a", "b"], 10**4)
    assert sum(cluster.size for cluster in found) == len(workspace.view)


@pytest.mark.parametrize(("words", "says"), [("one", "give 2"), ("cat, cat", "cat")])
def test_words_that_cannot_be_used(workspace, words, says):
    with pytest.raises(ClipAlignError, match=says):
        folder_page(workspace.view, Concepts(workspace), words, 0, 3, lambda share, text: None)


def test_an_unexpected_error_is_logged_and_shown_without_its_details(caplog):
    def broken():
        raise RuntimeError("/home/someone/secret")

    shown = guarded(broken)()
    assert "unexpected error" in shown
    assert "/home/someone" not in shown
    assert "/home/someone/secret" in caplog.text


def test_duplicates_name_files_of_the_folder(workspace):
    html = duplicates_page(workspace.view, 0.999)
    assert "cat again.png" in html
    assert "noto/cat.png" in html
    assert os.sep + "photos" not in html.partition("base64")[0], "no path of the disk is shown"
