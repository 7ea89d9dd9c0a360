"""The index changes while the app runs: by the app itself, by another process, or because it is deleted."""

import shutil
import sqlite3
import threading

import pytest
from PIL import Image

from hf_clipalign import ClipAlignError
from hf_clipalign.app.asking import ask
from hf_clipalign.app.folder_report import Concepts
from hf_clipalign.app.serving.places import shown_file
from hf_clipalign.app.serving.thumbnails import Thumbnails
from hf_clipalign.app.serving.uploads import Uploads
from hf_clipalign.app.views.panels import Page, guarded
from hf_clipalign.app.workspace import Workspace
from hf_clipalign.data import load_mini
from hf_clipalign.search import ImageIndex

UPLOADS = Uploads(lambda data, name: None)


def photo(folder, name, seed=0):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.png"
    Image.effect_noise((24 + seed, 24 + seed // 2), 40 + seed).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        photo(tmp_path / "shop", f"m{number}", number)
    return tmp_path / "shop"


def index_of(folder, path=None):
    index = ImageIndex.create(folder, load_mini().student_path, path or folder.with_name("shop.index"), head=(1, 48))
    index.update(progress=False, num_workers=0)
    return index


@pytest.fixture
def workspace(folder):
    path = index_of(folder).path
    made = Workspace(lambda: ImageIndex.open(path), is_to_update=False, template="{}")
    made.prepare()
    return made


def page_of(workspace):
    return Page(workspace, UPLOADS, Concepts(workspace))


def search(workspace, line="", token=""):
    return guarded(page_of(workspace).search)(line, token, 1, 48, 12, "")


def test_images_that_another_process_indexes_are_found_with_the_next_query(workspace, folder):
    before = workspace.view
    photo(folder, "a new one", 9)
    ImageIndex.open(workspace.view.index.path).update(progress=False, num_workers=0)
    assert "a new one.png" in search(workspace, "a thing")
    assert len(workspace.view) == len(before) + 1
    assert len(before.files) == len(before), "a query that is under way keeps its own state"
    assert workspace.view is workspace.view, "nothing is read again while nothing changes"


def test_a_page_that_is_older_than_the_index_still_means_the_same_files(workspace, folder):
    files, generation = workspace.view.files, workspace.view.generation
    number = files.names.index("m2.png")
    photo(folder, "a first one", 11)  # sorts before all others, so that every number moves on
    ImageIndex.open(workspace.view.index.path).update(progress=False, num_workers=0)
    assert workspace.view.files.names[number] != "m2.png"
    assert ask(workspace, UPLOADS, "", f"file:{generation}.{number}").text == "m2.png"
    assert shown_file(workspace.shown_files(generation), number).endswith("m2.png")


def test_an_image_that_was_removed_since_is_said(workspace, folder):
    generation, number = workspace.view.generation, workspace.view.files.names.index("m2.png")
    (folder / "m2.png").unlink()
    assert "gone since the index was made" in str(_error(lambda: shown_file(workspace.view.files, number)))
    ImageIndex.open(workspace.view.index.path).update(progress=False, num_workers=0)
    assert "&#39;m2.png&#39; is no longer in the collection" in search(workspace, token=f"file:{generation}.{number}")


def _error(function):
    with pytest.raises(ClipAlignError) as error:
        function()
    return error.value


def test_pages_of_long_ago_are_forgotten(workspace):
    first = workspace.view.generation
    for k_top in range(2, 12):
        ImageIndex.open(workspace.view.index.path).set_head((k_top, 40))
        assert workspace.view.index.band == (k_top, 40)
    with pytest.raises(ClipAlignError, match="search again"):
        workspace.shown_files(first)


def test_an_index_that_is_deleted_is_one_line_until_it_is_back(workspace, folder, tmp_path):
    path = workspace.view.index.path
    thumbnails = Thumbnails(path / "thumbnails")
    shutil.move(path, tmp_path / "elsewhere")
    shown = search(workspace, "a thing")
    assert shown.count('role="alert"') == 1
    assert "has gone (moved, deleted, or on a disk that is not there): put it back, or start the app again" in shown
    page = page_of(workspace)
    assert "unexpected" not in page.header()
    with pytest.raises(ClipAlignError, match="has gone"):
        page.moved_band("", (0, 0))
    assert thumbnails.get(str(folder / "m1.png")).startswith(b"\xff\xd8")
    assert not path.exists(), "no folder of thumbnails is left where the index was"
    shutil.move(tmp_path / "elsewhere", path)
    assert "Plain CLIP" in search(workspace, "a thing")


def test_an_index_that_is_made_anew_is_shown_if_it_is_of_the_same_model(workspace, folder):
    path = workspace.view.index.path
    number = workspace.view.files.names.index("m2.png")
    shutil.rmtree(path)
    (folder / "m2.png").unlink()
    photo(folder, "z", 14)
    index_of(folder, path)
    assert "z.png" in search(workspace, "a thing")
    assert "m2.png" not in workspace.view.files.names
    assert number < len(workspace.view.files)
    shutil.rmtree(path)
    ImageIndex.create(folder, load_mini().teacher_path, path).update(progress=False, num_workers=0)
    assert "made anew with another model: start the app again" in search(workspace, "a thing")


def test_an_index_that_loses_its_last_image_is_one_line(workspace, folder):
    for file in folder.iterdir():
        file.unlink()
    ImageIndex.open(workspace.view.index.path).update(progress=False, num_workers=0)
    assert "holds no images any more" in search(workspace, "a thing")


def test_a_damaged_index_is_one_line(workspace):
    with open(workspace.view.index.path / "index.sqlite", "r+b") as file:
        file.write(b"no database")
    shown = search(workspace, "a thing")
    assert shown.count('role="alert"') == 1
    assert "is damaged" in shown


def test_what_is_indexed_can_be_searched_while_new_images_are_embedded(folder):
    path, seen = index_of(folder).path, []
    photo(folder, "new", 9)

    class Watched(Workspace):
        def _note_progress(self, done, total):
            super()._note_progress(done, total)
            seen.append((len(self.view), self.is_waiting, self.all_notes()[-1], search(self, "a thing")))

    workspace = Watched(lambda: ImageIndex.open(path), is_to_update=True, template="{}")
    workspace.prepare()
    (first, *_) = seen
    assert first[:2] == (4, True)
    assert first[2] == "New images of the folder: 0 of 1. What is indexed already can be searched meanwhile."
    assert "m1.png" in first[3]
    assert len(workspace.view) == 5
    assert "meanwhile" not in page_of(workspace).header()


def test_what_is_indexed_can_be_searched_though_new_images_cannot_be_embedded(folder):
    path = index_of(folder).path
    photo(folder, "new", 9)
    workspace = Workspace(
        lambda: ImageIndex.open(path), is_to_update=True, template="{}", model=load_mini().teacher_path
    )
    workspace.prepare()
    assert workspace.progress().state == "ready"
    header = page_of(workspace).header()
    assert header.count('role="alert"') == 1
    assert "made with another model" in header
    assert "m1.png" in search(workspace, "m2.png")


def test_many_people_ask_while_another_process_writes(workspace, folder):
    path, answers, stop = workspace.view.index.path, [], threading.Event()

    def write():
        for number in range(5):
            photo(folder, f"a{number}", 20 + number)
            ImageIndex.open(path).update(progress=False, num_workers=0)
        stop.set()

    def look():
        while not stop.is_set():
            answers.append(search(workspace, "m1.png"))

    threads = [threading.Thread(target=write), *(threading.Thread(target=look) for _ in range(3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers
    assert all("Aligned head" in one and "alert" not in one for one in answers)
    assert "a4.png" in search(workspace, "m1.png")


def test_a_writer_that_holds_the_database_does_not_stop_the_app(workspace):
    connection = sqlite3.connect(workspace.view.index.path / "index.sqlite", isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        assert "Plain CLIP" in search(workspace, "a thing")
    finally:
        connection.close()


def test_the_sliders_follow_the_band_of_the_index_unless_a_user_moved_them(workspace):
    page = page_of(workspace)
    assert page.moved_band("", (0, 0)) == (1, 48)
    assert page.moved_band("1,48", (1, 48)) is None
    ImageIndex.open(workspace.view.index.path).set_head((3, 40))
    assert page.moved_band("1,48", (1, 48)) == (3, 40)
    assert page.moved_band("1,48", (7, 48)) is None
