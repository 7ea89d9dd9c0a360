"""The plan: made once, the same for every worker, and only for the data that it was made for."""

from __future__ import annotations

import json

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign.data import ImageSource, ImageStream, TextSource
from hf_clipalign.features import extract_share
from hf_clipalign.features.engines.plan import Plan
from hf_clipalign.features.storage.manifest import sealed
from tests.features.engines.ways import OPTIONS, make_images, plain, shard_names, share, store_files
from tests.tiny_models import tiny_clip, tiny_image_processor


def source(n=10):
    return ImageSource([f"{row}.png" for row in range(n)], ids=[f"id {row}" for row in range(n)])


def test_a_plan_names_the_rows_of_every_shard():
    plan = Plan.of(source(), "key", 4)
    assert [list(plan.rows(index)) for index in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [(shard["first"], shard["last"]) for shard in plan.shards] == [
        ("id 0", "id 3"),
        ("id 4", "id 7"),
        ("id 8", "id 9"),
    ]
    assert (plan.n_items, plan.chosen(lambda index: index != 1, frozenset([2]))) == (10, [0])


def test_texts_and_streams_have_plans_too():
    assert Plan.of(TextSource(["a", "b", "c"]), "key", 2).shards[1]["first"] == "2"
    stream = Plan.of(ImageStream(lambda first: iter(()), fingerprint=str), "key", 4)
    assert (stream.n_items, stream.shards) == (None, ())


def test_a_plan_is_read_as_it_was_written(tmp_path):
    assert Plan.read(tmp_path) is None
    odd = ImageSource(["a", "b"], ids=["caf\xe9 \udce9", "b"])
    for plan in (Plan.of(source(), "key", 4), Plan.of(odd, "other", 1), Plan("stream", 4, None)):
        plan.write(tmp_path)
        assert Plan.read(tmp_path) == plan


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_a_damaged_plan_says_what_to_do(tmp_path, damage):
    Plan.of(source(), "key", 4).write(tmp_path)
    file = tmp_path / "plan.json"
    text = file.read_text()
    file.write_text({"cut": text[:-20], "changed": text.replace('"id 3"', '"id 2"'), "other": "[]"}[damage])
    with pytest.raises(ClipAlignError, match=r"plan\.json' is damaged: it .* Delete it and run again"):
        Plan.read(tmp_path)


def test_a_plan_of_a_later_version_is_not_guessed_at(tmp_path):
    Plan.of(source(), "key", 4).write(tmp_path)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(sealed({**json.loads(file.read_text()), "format": 2})))
    with pytest.raises(ClipAlignError, match="has format 2, this version reads 1: update"):
        Plan.read(tmp_path)


def test_the_first_other_shard_is_named():
    plan = Plan.of(source(), "key", 4)
    assert plan.difference(plan) is None
    renamed = ImageSource(["x"] * 10, ids=[f"id {row}" for row in range(9)] + ["zebra"])
    assert plan.difference(Plan.of(renamed, "key", 4)) == "shard 2 is 'id 8' to 'id 9' there, 'id 8' to 'zebra' here"
    inside = ImageSource(["x"] * 10, ids=["id 0", "new", *(f"id {row}" for row in range(2, 10))])
    assert plan.difference(Plan.of(inside, "key", 4)).startswith("shard 0 is")
    assert plan.difference(Plan.of(source(8), "key", 4)) == "10 items there, 8 here"


def test_the_plan_is_there_while_a_run_is_unfinished_and_does_not_depend_on_the_workers(tmp_path):
    images = make_images(tmp_path / "images")
    plans = []
    for count in (2, 3, 7):
        out = tmp_path / str(count)
        share(images, out, 1, count)
        plans.append((out / "plan.json").read_bytes())
    assert plans[0] == plans[1] == plans[2]
    assert json.loads(plans[0])["n_items"] == 18
    plain(images, tmp_path / "2")
    assert "plan.json" not in store_files(tmp_path / "2")


def test_a_run_that_an_earlier_version_has_begun_is_resumed(tmp_path):
    """It left a manifest and shards, and no plan."""
    images, out = make_images(tmp_path / "images"), tmp_path / "out"
    expected = store_files(plain(images, tmp_path / "plain").folder)
    share(images, out, 1, 2)
    (out / "plan.json").unlink()
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("features-*")}
    assert before
    plain(images, out)
    assert store_files(out) == expected
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before


def test_the_same_fingerprint_with_other_names_is_refused(tmp_path):
    files = [str(file) for file in sorted(make_images(tmp_path / "images").rglob("*.png"))]
    out, processor = tmp_path / "out", tiny_image_processor()

    def extract(names, index):
        images = ImageSource(files, ids=names, fingerprint=lambda: "fixed")
        return extract_share(tiny_clip(), images, processor, out, share=(index, 2), **OPTIONS)

    names = [str(row) for row in range(len(files))]
    extract(names, 1)
    with pytest.raises(ClipAlignError, match=r"of other images, though their fingerprint is the same \(shard 0 is"):
        extract(names[::-1], 2)
    assert shard_names(out) == ["features-00000", "features-00002", "features-00004"]


def test_a_plan_that_is_no_longer_needed_is_removed(tmp_path):
    """A run was killed between the manifest that makes the store complete and the end."""
    images, out = make_images(tmp_path / "images"), tmp_path / "out"
    share(images, out, 1, 2)
    left = (out / "plan.json").read_bytes()
    plain(images, out)
    expected = store_files(out)
    (out / "plan.json").write_bytes(left)
    (out / ".features-worker-a-1-2.jsonl").write_text("")
    plain(images, out)
    assert store_files(out) == expected
    assert not list(out.glob(".features-worker-*"))
