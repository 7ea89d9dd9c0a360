"""A folder of emoji and its index."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from hf_clipalign.cli.options import console
from hf_clipalign.data import load_mini
from tests.cli.calls import call

NAMES = ("red heart", "green heart", "sailboat", "locomotive", "red apple", "cat")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder of emoji with duplicates, and its index."""
    root = tmp_path_factory.mktemp("collection")
    rows = load_mini().emoji_subset(styles=["noto", "twemoji"])
    for row in rows.select(np.flatnonzero(np.isin(rows["name"][:], NAMES))):
        file = root / "photos" / row["style"] / f"{row['name']}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(file)
    first = root / "photos" / "noto" / "sailboat.png"
    shutil.copyfile(first, root / "photos" / "sailboat copy.png")
    Image.open(first).resize((90, 90)).save(root / "photos" / "sailboat large.png")
    (root / "photos" / "broken.png").write_bytes(b"nothing")
    for file in root.rglob("*.png"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    os.utime(root / "photos" / "sailboat copy.png", (1_600_000_000, 1_600_000_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        printed = call("index", "photos", "--model", "mini:student", "--head", "1,48")
    return root, printed


@pytest.fixture
def here(made, monkeypatch):
    """That folder as the current one; nothing in it may be changed."""
    root, _ = made
    monkeypatch.setattr(console, "width", 200)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """Images and an index that may be changed."""
    shutil.copytree(made[0] / "photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 200)
    call("index", "photos", "--model", "mini:student", "--head", "1,48")
    return tmp_path
