"""Groups of duplicates: copies, the same image again, and images that are merely alike."""

import os

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from hf_clipalign import ClipAlignError
from hf_clipalign.search import find_duplicates
from hf_clipalign.search.answers import groups as module
from hf_clipalign.search.answers.groups import groups_as_table, groups_as_tiles
from tests.search.collections import Collection, Files

pytest.importorskip("imagehash")


def scene(seed, side=160):
    """A photograph-like image: smooth noise and a few shapes."""
    generator = np.random.default_rng(seed)
    noise = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
    draw = ImageDraw.Draw(noise)
    for x, y in generator.integers(0, side, (6, 2)):
        draw.ellipse((x, y, x + side // 4, y + side // 5), fill=tuple(generator.integers(0, 256, 3).tolist()))
    return noise.filter(ImageFilter.GaussianBlur(1))


def recoloured(image):
    return Image.merge("RGB", [image.getchannel(band) for band in "BRG"])


def with_a_detail(image):
    """Another image: a small part is another one."""
    changed = image.copy()
    ImageDraw.Draw(changed).rectangle((70, 70, 88, 88), fill=(255, 0, 255))
    return changed


IMAGES = {
    "a.png": lambda: scene(1),
    "a-half.jpg": lambda: scene(1).resize((80, 80)),
    "a-worse.jpg": lambda: scene(1),
    "a-mirrored.png": lambda: scene(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "a-colours.png": lambda: recoloured(scene(1)),
    "a-detail.png": lambda: with_a_detail(scene(1)),
    "b.png": lambda: scene(2),
    "other.png": lambda: scene(3),
}


@pytest.fixture
def collection(tmp_path):
    """All images of `a` and `b` are near in features, and `other` is far from all."""
    names = list(IMAGES)
    for name, make in IMAGES.items():
        make().save(tmp_path / name, **({"quality": 20} if "worse" in name else {}))
    (tmp_path / "other copy.png").write_bytes((tmp_path / "other.png").read_bytes())
    names.append("other copy.png")
    sizes = np.array([(tmp_path / name).stat().st_size for name in names])
    features = np.eye(4, dtype=np.float32)[[0, 0, 0, 0, 0, 0, 0, 1]] + 0.01 * np.arange(8)[:, None]
    dates = np.array([1e9] * 8 + [5e8])
    return Collection(
        Files(str(tmp_path), names, sizes, dates, np.array([0, 1, 2, 3, 4, 5, 6, 7, 7])), features.astype("f4")
    )


def named(groups):
    return [(group.kind, {os.path.basename(file.path) for file in group.files}) for group in groups]


def test_three_kinds_are_told_apart(collection):
    groups = find_duplicates(collection, 0.9, head="raw")
    assert named(groups) == [
        ("copies", {"other.png", "other copy.png"}),
        ("same image", {"a.png", "a-half.jpg", "a-worse.jpg"}),
        ("similar", {"a.png", "a-mirrored.png", "a-colours.png", "a-detail.png", "b.png"}),
    ]


def test_the_largest_and_then_the_oldest_is_kept(collection):
    copies, same, _ = find_duplicates(collection, 0.9, head="raw")
    assert os.path.basename(copies.keep) == "other copy.png"
    assert os.path.basename(same.keep) == "a.png"
    assert [(file.width, file.height) for file in same.files] == [(160, 160), (160, 160), (80, 80)]
    assert same.files[0].bytes > same.files[1].bytes
    assert same.keep == same.files[0].path


def test_without_a_look_at_the_pixels(collection, monkeypatch):
    monkeypatch.setattr(module.pixels, "is_installed", lambda: False)
    copies, unchecked = find_duplicates(collection, 0.9, head="raw")
    assert (copies.kind, unchecked.kind) == ("copies", "unchecked")
    assert len(unchecked.files) == 7
    assert "pip install" in groups_as_table([unchecked]).caption


def test_a_file_that_is_gone_is_not_the_same(collection, tmp_path):
    (tmp_path / "a-half.jpg").unlink()
    groups = find_duplicates(collection, 0.9, head="raw")
    assert ("same image", {"a.png", "a-worse.jpg"}) in named(groups)
    assert "a-half.jpg" in named(groups)[-1][1]


def test_only_what_reaches_the_threshold(collection):
    assert named(find_duplicates(collection, 1.0, head="raw")) == [("copies", {"other.png", "other copy.png"})]
    with pytest.raises(ClipAlignError, match="threshold is 0"):
        find_duplicates(collection, 0.0)
    with pytest.raises(ClipAlignError, match="unknown head 'rwa': did you mean 'raw'"):
        find_duplicates(collection, head="rwa")


def test_tables_and_pages(collection):
    groups = find_duplicates(collection, 0.9, head="raw")
    table = groups_as_table(groups, most=1)
    assert "and 2 groups more: --json, --csv and --html have all" in table.caption
    assert len(table.rows) == 2
    marked = [[tile.is_marked for tile in group.tiles] for group in groups_as_tiles(groups)]
    assert [sum(tiles) for tiles in marked] == [1, 1, 0], "of similar images all are worth keeping"


def test_an_empty_collection(tmp_path):
    none = np.empty(0, np.int64)
    empty = Collection(Files(str(tmp_path), [], none, none.astype(float), none), np.empty((0, 4), np.float32))
    assert find_duplicates(empty) == []


def test_a_link_is_no_copy(tmp_path):
    """Who deletes what is not worth keeping must not lose the file that a link leads to."""
    scene(1).save(tmp_path / "z.png")
    scene(2).save(tmp_path / "real.png")
    (tmp_path / "a.png").symlink_to(tmp_path / "z.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "real.png").read_bytes())
    names, images = ["a.png", "z.png", "copy.png", "link.png", "real.png"], np.array([0, 0, 1, 1, 1])
    files = Files(str(tmp_path), names, np.ones(5, int), np.zeros(5), images)
    groups = find_duplicates(Collection(files, np.eye(2, 4, dtype="f4")), head="raw")
    assert named(groups) == [("copies", {"copy.png", "real.png"})]


def test_scores_are_those_of_the_group(tmp_path):
    for name, make in {"a.png": 1, "b.png": 1, "c.png": 2, "d.png": 3}.items():
        scene(make).save(tmp_path / name)
    (tmp_path / "d copy.png").write_bytes((tmp_path / "d.png").read_bytes())
    features = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0.96, 0.28, 0, 0], [0.936, 0, 0.352, 0]], "f4")
    names = ["a.png", "b.png", "c.png", "d.png", "d copy.png"]
    files = Files(str(tmp_path), names, np.ones(5, int), np.zeros(5), np.array([0, 1, 2, 3, 3]))
    groups = find_duplicates(Collection(files, features), 0.92, head="raw")
    scores = [(group.kind, sorted({round(file.score, 2) for file in group.files})) for group in groups]
    assert scores == [("copies", [1.0]), ("same image", [1.0]), ("similar", [0.94, 0.96])]
