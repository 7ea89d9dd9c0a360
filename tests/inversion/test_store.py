"""Inversions on the disk: whole shards only, going on after a kill, never a mix."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.inversion import invert_to_store, oti, read_inversions, store
from tests.processes import launch
from tests.tiny_models import tiny_clip, tiny_tokenizer

EMBEDS = torch.randn(7, 24, generator=torch.Generator().manual_seed(1))
NAMES = [f"image {i}" for i in range(7)]
OPTIONS = {"steps": 3, "evaluate_at": (2,), "progress": False}


def invert(folder, model=None, embeds=EMBEDS, ids=NAMES, shard_size=2, **options):
    model = tiny_clip() if model is None else model
    tokenizer = tiny_tokenizer()
    return invert_to_store(
        folder, "oti", model, embeds, processor=tokenizer, ids=ids, shard_size=shard_size, **(OPTIONS | options)
    )


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(".lock")}


def test_a_store_holds_what_one_call_gives(tmp_path):
    ids, stored = read_inversions(invert(tmp_path / "store"))
    direct = oti(
        tiny_clip(),
        EMBEDS,
        processor=tiny_tokenizer(),
        ids=NAMES,
        generator=torch.Generator().manual_seed(0),
        **OPTIONS,
    )
    assert ids == NAMES
    assert stored.steps_taken.tolist() == [3] * 7
    for name in ("tokens", "features", "losses"):
        torch.testing.assert_close(getattr(stored, name), getattr(direct, name), atol=1e-4, rtol=0)
    torch.testing.assert_close(stored.snapshots[2], direct.snapshots[2], atol=1e-4, rtol=0)


def test_it_goes_on_after_a_kill(tmp_path, monkeypatch):
    whole = contents(invert(tmp_path / "whole"))
    calls = []

    def dies_at_the_third(*arguments, **options):
        calls.append(options["ids"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return oti(*arguments, **options)

    monkeypatch.setattr(store, "oti", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        invert(tmp_path / "killed")
    with pytest.raises(ClipAlignError, match="2 of 4 shards"):
        read_inversions(tmp_path / "killed")
    with pytest.raises(ClipAlignError, match=r"differs: settings \(batch_size: 64 there, 1 here\)"):
        invert(tmp_path / "killed", batch_size=1)
    invert(tmp_path / "killed")
    assert calls == [NAMES[0:2], NAMES[2:4], NAMES[4:6], NAMES[4:6], NAMES[6:7]]
    assert contents(tmp_path / "killed").keys() == whole.keys()
    invert(tmp_path / "killed")
    assert len(calls) == 5
    assert contents(tmp_path / "killed") == whole


def test_a_damaged_shard_is_made_again(tmp_path):
    before = contents(invert(tmp_path / "store"))
    (file,) = (tmp_path / "store").glob("inversion-00001-*.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ClipAlignError, match="1 of 4 shards"):
        read_inversions(tmp_path / "store")
    assert contents(invert(tmp_path / "store")) == before


def test_processes_share_the_shards(tmp_path):
    alone = contents(invert(tmp_path / "alone"))
    for rank in (0, 1):
        invert(tmp_path / "two", rank=rank, world_size=2)
        assert len(list((tmp_path / "two").glob("*.safetensors"))) == 2 * (rank + 1)
    assert contents(tmp_path / "two") == alone


@pytest.mark.slow
def test_torchrun_fills_the_store_of_one_process(tmp_path):
    launch(Path(__file__).with_name("store_run.py"), tmp_path / "two", processes=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        invert(tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "two").keys() == contents(tmp_path / "one").keys()
    (ids, two), (_, one) = (read_inversions(tmp_path / name) for name in ("two", "one"))
    assert ids == NAMES
    for name in ("tokens", "features", "losses"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 4}, r"settings \(steps: 3 there, 4 here\)"),
        ({"lr": 0.1}, r"settings \(lr: 0.02 there, 0.1 here\)"),
        ({"strategy": "cut"}, r"settings \(strategy: auto there, cut here\)"),
        ({"template": "a {}"}, r"settings \(template: a photo of {} there, a {} here\)"),
        ({"seed": 1}, r"settings \(seed: 0 there, 1 here\)"),
        ({"model": tiny_clip(seed=1)}, "differs: model weights"),
        ({"embeds": EMBEDS + 0.01}, "differs: features"),
        ({"ids": NAMES[::-1]}, "differs: ids"),
        ({"shard_size": 3}, r"shard_size \(2 there, 3 here\)"),
    ],
)
def test_another_run_in_the_same_folder_is_an_error(tmp_path, change, words):
    before = contents(invert(tmp_path / "store"))
    with pytest.raises(ClipAlignError, match=words):
        invert(tmp_path / "store", **change)
    assert contents(tmp_path / "store") == before


def test_bad_settings_leave_nothing_behind(tmp_path, monkeypatch):
    for options, words in (
        ({"steps": 0}, "steps is 0"),
        ({"template": "a photo"}, "0 places"),
        ({"ids": ["a"] * 7}, "'a' occurs more than once"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"init": EMBEDS}, "takes no init"),
        ({"foo": 1}, "oti has no option 'foo': there are n_tokens, steps,"),
        ({"shard_size": 2.5}, "shard_size is 2.5"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"rank": "x"}, "rank is 'x': give an integer"),
        ({"seed": None}, "seed is None: give an integer"),
        ({"ids": (name for name in NAMES[:3])}, "7 oti features but 3 ids"),
    ):
        with pytest.raises(ClipAlignError, match=words):
            invert(tmp_path / "store", **options)
        assert not (tmp_path / "store").exists()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(ClipAlignError, match="world_size is 'many'"):
        invert(tmp_path / "store")
    monkeypatch.delenv("WORLD_SIZE")
    for method, words in (("oti", "give the checkpoint's processor"), ("ovi", "ovi needs n_tokens")):
        with pytest.raises(ClipAlignError, match=words):
            invert_to_store(tmp_path / "store", method, tiny_clip(), EMBEDS)
    with pytest.raises(ClipAlignError, match="unknown method 'uti'"):
        invert_to_store(tmp_path / "store", "uti", tiny_clip(), EMBEDS)
    with pytest.raises(ClipAlignError, match="holds no inversions"):
        read_inversions(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[1]", '{"data": {"items": "7"}, "shard_size": 2}', '{"data": 1'])
def test_a_manifest_that_says_nothing_is_damaged(tmp_path, content):
    folder = invert(tmp_path / "store")
    (folder / "inversion.json").write_text(content)
    for call in (read_inversions, invert):
        with pytest.raises(ClipAlignError, match=r"inversion\.json' is damaged"):
            call(folder)


def test_numbers_of_numpy_give_the_same_store(tmp_path):
    expected = contents(invert(tmp_path / "plain"))
    numpy = invert(tmp_path / "numpy", embeds=EMBEDS.numpy(), steps=np.int64(3), lr=np.float64(0.02))
    assert contents(numpy) == expected
