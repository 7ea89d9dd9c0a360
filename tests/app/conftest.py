"""A folder of emoji with everything that an app must cope with, and its index."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from hf_clipalign.app.workspace import Workspace
from hf_clipalign.data import load_mini
from hf_clipalign.search import ImageIndex

NAMES = ("red heart", "green heart", "sailboat", "locomotive", "red apple", "cat", "umbrella", "cactus")
HOSTILE = "<img src=x onerror=alert(1)>&.png"
SECRET = (255, 0, 255)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """`photos/STYLE/NAME.png`, one file twice, one with a hostile name, one that is a link out of the folder."""
    root = tmp_path_factory.mktemp("app")
    mini = load_mini()
    rows = mini.emoji_subset(styles=["noto", "twemoji", "fluent"])
    for row in rows.select(np.flatnonzero(np.isin(rows["name"][:], NAMES))):
        file = root / "photos" / row["style"] / f"{row['name']}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(file)
    shutil.copy(root / "photos" / "noto" / "cat.png", root / "photos" / "cat again.png")
    Image.new("RGB", (40, 30), "navy").save(root / "photos" / HOSTILE)
    Image.new("RGB", (40, 30), SECRET).save(root / "secret.png")
    (root / "photos" / "outside.png").symlink_to(root / "secret.png")
    return root / "photos"


@pytest.fixture(scope="session")
def index_path(photos):
    """Its index, with a band and with what its scores mean."""
    path = photos.parent / "photos.index"
    index = ImageIndex.create(photos, load_mini().student_path, path, head=(1, 48))
    index.update(progress=False, num_workers=0)
    index.calibrate(progress=False, num_workers=0)
    return path


@pytest.fixture(scope="session")
def workspace(index_path):
    """The index as an app has it."""
    made = Workspace(lambda: ImageIndex.open(index_path), is_to_update=False, template="an emoji of {}")
    made.prepare()
    assert made.progress().state == "ready", made.progress()
    return made


@pytest.fixture(scope="session")
def number_of(workspace):
    """The number of a file by its name."""
    return lambda name: workspace.view.files.names.index(os.fspath(name))


@pytest.fixture(scope="session")
def token_of(workspace, number_of):
    """What the page asks with when an image of the collection is chosen."""
    return lambda name: f"file:{workspace.view.generation}.{number_of(name)}"
