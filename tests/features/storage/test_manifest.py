"""Manifests and other JSON: limits on depth, size and types, one line each."""

import json

import pytest

from hf_clipalign import ClipAlignError
from hf_clipalign._io.limited_json import BadJson, checked_json, natural
from hf_clipalign.features import FeatureStore
from hf_clipalign.features.rows import FEATURES
from hf_clipalign.features.storage import manifest as manifests
from hf_clipalign.inversion import read_inversions
from tests.features.storage.kinds import make_features, make_inversions

SCHEMA = {"name": (str, None), "sizes": [natural], "inner?": {"on": bool}}


def test_a_value_that_fits_comes_back():
    value = {"name": None, "sizes": [0, 3], "inner": {"on": True}, "more": 1.5}
    assert checked_json(json.dumps(value).encode(), SCHEMA) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[1", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b'{"a": NaN}', "NaN is no value of JSON"),
        (b"[" * 100_000, "deeper than 32"),
        (b"[" * 40 + b"]" * 40, "deeper than 32"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "deeper than 32"),
        (b"[]", r"all of it is \[\], not an object"),
        (b'{"sizes": []}', "has no 'name'"),
        (b'{"name": 1, "sizes": []}', "name is 1, not a text or null"),
        (b'{"name": "x", "sizes": [1, -1]}', r"sizes\[1\] is -1, not an integer of 0 or more"),
        (b'{"name": "x", "sizes": [true]}', r"sizes\[0\] is true, not an integer"),
        (b'{"name": "x", "sizes": [1e400]}', r"sizes\[0\] is Infinity|not valid"),
        (b'{"name": "x", "sizes": [], "inner": {"on": 1}}', "inner.on is 1, not true or false"),
        (b'{"name": "x", "sizes": [' + b"9" * 5000 + b"]}", "not valid JSON|not an integer"),
        (b'"' + b"x" * 2000 + b'"', "over the limit of 1,000"),
    ],
)
def test_what_is_wrong_is_one_line(text, words):
    size = 1000 if b"xxxx" in text else 2**28
    with pytest.raises(BadJson, match=words) as caught:
        checked_json(text, SCHEMA, size=size)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def changed(folder, name, change):
    file = folder / name
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(manifests.sealed(value)))


CHANGES = {
    "format": lambda m: m.update(format="2"),
    "no format": lambda m: m.pop("format"),
    "wrong type": lambda m: m.update(model=[1]),
    "negative": lambda m: m.update(shard_size=-1),
    "deep": lambda m: m.update(data=json.loads("[" * 50 + "]" * 50)),
    "a list": None,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("make", "read", "name"),
    [(make_features, FeatureStore.open, "features.json"), (make_inversions, read_inversions, "inversion.json")],
)
def test_a_manifest_of_wrong_types_is_refused_in_one_line(tmp_path, make, read, name, change):
    make(tmp_path, 1)
    if CHANGES[change] is None:
        (tmp_path / name).write_text("[1, 2]")
    else:
        changed(tmp_path, name, CHANGES[change])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for call in (read, lambda folder: make(folder, 1)):
        with pytest.raises(ClipAlignError, match=rf"{name}' is damaged.*(, not |has no 'format'|deeper)") as caught:
            call(tmp_path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_flipped_bit_of_a_manifest_is_named(tmp_path):
    for make, read, name in (
        (make_features, FeatureStore.open, "features.json"),
        (make_inversions, read_inversions, "inversion.json"),
    ):
        make(tmp_path, 1)
        data = (tmp_path / name).read_bytes()
        for place in range(1, len(data) - 1, 7):
            spoilt = bytearray(data)
            spoilt[place] ^= 1
            (tmp_path / name).write_bytes(spoilt)
            if bytes(spoilt).split() != data.split():
                with pytest.raises(ClipAlignError, match=rf"{name}' is damaged|have format 3"):
                    read(tmp_path)
        (tmp_path / name).write_bytes(data)
        read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["shards"][0].update(file="../../etc/passwd"),
        lambda m: m["shards"][0].update(file="/etc/passwd"),
        lambda m: m["shards"][0].update(rows="4"),
        lambda m: m["shards"][0].pop("sha256"),
        lambda m: m.update(shards={}),
        lambda m: m.pop("shards"),
        lambda m: m.update(n_rows=None),
    ],
)
def test_shards_of_a_manifest_are_checked(tmp_path, change):
    make_features(tmp_path, 1)
    changed(tmp_path, "features.json", change)
    with pytest.raises(ClipAlignError, match=r"features\.json' is damaged.*(shards|n_rows)"):
        FeatureStore.open(tmp_path)


def test_counts_that_do_not_add_up_are_refused(tmp_path):
    make_features(tmp_path, 1)
    changed(tmp_path, "features.json", lambda m: m.update(n_rows=10**9))
    with pytest.raises(ClipAlignError, match=r"damaged: features\.json: its n_rows is not 9"):
        FeatureStore.open(tmp_path)
    changed(tmp_path, "features.json", lambda m: m.update(n_rows=9, width=5))
    with pytest.raises(ClipAlignError, match="8 dimensions instead of 5"):
        FeatureStore.open(tmp_path).values()


def test_a_huge_manifest_is_not_parsed(tmp_path, monkeypatch):
    make_features(tmp_path, 1)
    monkeypatch.setattr(manifests, "checked_json", lambda text, *args: checked_json(text, size=100))
    with pytest.raises(ClipAlignError, match="over the limit of 100"):
        FeatureStore.open(tmp_path)


def test_the_key_holds_all_that_decides_about_the_shards():
    description = {"modality": "image", "model": {"weights": "w"}, "shard_size": 4}
    other = {**description, "shard_size": 5}
    assert FEATURES.key(description) != FEATURES.key(other)
    assert FEATURES.family(description) == FEATURES.family(other)
    assert FEATURES.family(description) != FEATURES.family({**description, "model": {"weights": "v"}})


def test_a_manifest_is_written_for_people_to_read(tmp_path):
    """One entry a line, names in their own letters, and a newline at the end."""
    manifests.write_manifest(tmp_path, FEATURES, {"modality": "image", "data": {"name": "Bücher"}})
    text = (tmp_path / "features.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert '\n  "name": "Bücher"\n' in text
