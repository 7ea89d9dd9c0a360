"""What the folder alone says about a run, and what `clipalign embed --shard` and `--status` print."""

from __future__ import annotations

import json
import os
import time

import pytest
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.cli.app import app
from hf_clipalign.cli.store_commands.embedding_status import duration
from hf_clipalign.features.engines import workers as workers_module
from hf_clipalign.features.engines.status import ExtractionStatus, extraction_status, is_at_work
from tests.features.engines.ways import make_images, plain, share, store_files


@pytest.fixture
def images(tmp_path):
    return make_images(tmp_path / "images")


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, ClipAlignError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_what_is_done_by_whom_and_what_was_skipped(images, tmp_path):
    out = tmp_path / "out"
    share(images, out, 1, 2)
    status = extraction_status(out)
    assert (status.complete, status.done, status.n_shards) == (False, (0, 2, 4), 5)
    assert (status.n_done, status.n_items) == (10, 18)
    assert [name for name, _ in status.skipped] == ["cat/02.png", "dog/10.png"]
    (worker,) = status.workers
    assert (worker.way, worker.shards, worker.ended) == ("share 1/2", {0: 4, 2: 4, 4: 2}, False)
    assert worker.name.endswith(f":{os.getpid()}")
    assert worker.rate == pytest.approx(10 / worker.seconds)
    assert status.seconds_left == pytest.approx(8 / worker.rate)


def test_a_complete_store_needs_no_notes(images, tmp_path):
    out = plain(images, tmp_path / "out").folder
    status = extraction_status(out)
    assert (status.complete, status.done, status.n_done, len(status.skipped)) == (True, (0, 1, 2, 3, 4), 18, 2)
    assert status.workers == ()
    assert not [file for file in out.iterdir() if "worker" in file.name]


def test_a_clock_that_is_off_changes_nothing(images, tmp_path, monkeypatch):
    """Neither the time that a worker believes in nor that of the one who asks is looked at."""
    out = tmp_path / "out"
    real = time.time
    for offset in (-4e8, 4e8):
        monkeypatch.setattr(time, "time", lambda offset=offset: real() + offset)
        monkeypatch.setattr(time, "time_ns", lambda offset=offset: int((real() + offset) * 1e9))
        share(images, out, 1, 2)
        (worker,) = extraction_status(out).workers
        assert 0 <= worker.silent < 3600
        assert is_at_work(worker)
        assert 0 < extraction_status(out).rate < 1e6


def test_files_of_another_machine_are_not_removed_by_one_whose_clock_is_ahead(tmp_path, monkeypatch):
    from hf_clipalign._io.staging import remove_stale

    written = tmp_path / ".features-00001-abc.safetensors~other-1~77~0123abcd.safetensors"
    old = tmp_path / ".features-00002-abc.safetensors~other-1~78~0123abcd.safetensors"
    written.touch()
    old.touch()
    os.utime(old, (1e9, 1e9))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 90 * 86400)
    remove_stale(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [written.name]


def note(out, *lines):
    (out / ".features-worker-a-1-2.jsonl").write_text("".join(lines))


def test_notes_that_are_cut_off_or_make_no_sense_cost_nothing_else(images, tmp_path):
    out = tmp_path / "out"
    share(images, out, 1, 2)
    about = json.dumps({"way": "share 2/2", "host": "elsewhere", "pid": 7, "started": "5"}) + "\n"
    line = json.dumps({"shard": 1, "images": 4, "seconds": 2.0}) + "\n"
    note(out, about, line, line[:9])
    workers = {worker.way: worker for worker in extraction_status(out).workers}
    assert (workers["share 2/2"].name, workers["share 2/2"].rate) == ("elsewhere:7", 2.0)
    for lines in (["\n"], [about[:20]], ["{}\n"], ["\xff\n"]):
        note(out, *lines)
        assert [worker.way for worker in extraction_status(out).workers] == ["share 1/2"]
    note(out, about, '{"shard": -1}\n', line)
    assert len(extraction_status(out).workers) == 2


def test_who_has_ended_or_is_silent_for_long_does_not_count_as_at_work():
    worker = workers_module.Worker("a:1", "plain", {0: 100}, 10.0, ended=False, silent=5.0)
    assert is_at_work(worker)
    assert not is_at_work(workers_module.Worker("a:1", "plain", {0: 100}, 10.0, ended=True, silent=5.0))
    assert not is_at_work(workers_module.Worker("a:1", "plain", {0: 100}, 10.0, ended=False, silent=121.0))
    assert is_at_work(workers_module.Worker("a:1", "plain", {0: 1}, 600.0, ended=False, silent=1500.0))
    assert not is_at_work(workers_module.Worker("a:1", "plain", {0: 1}, 600.0, ended=False, silent=None))


def test_damaged_shards_are_named(images, tmp_path):
    out = tmp_path / "out"
    share(images, out, 1, 2)
    (file,) = out.glob("features-00002-*")
    file.write_bytes(file.read_bytes()[:100])
    status = extraction_status(out)
    assert (status.done, [name for name, _ in status.damaged]) == ((0, 4), [file.name])
    assert f"damaged {file.name}" in call("embed", "--out", out, "--status")


def test_a_missing_shard_of_a_complete_store_is_named(images, tmp_path):
    out = plain(images, tmp_path / "out").folder
    next(out.glob("features-00001-*")).unlink()
    assert extraction_status(out).damaged[0][1] == "it is missing"


def test_an_update_is_counted_by_its_own_plan(images, tmp_path):
    """The old store stays complete and readable beside it."""
    out = tmp_path / "out"
    plain(images, out)
    (images / "dog" / "17.png").unlink()
    share(images, out, 1, 2)
    status = extraction_status(out)
    assert (status.complete, status.done, status.n_items) == (False, (0, 2, 4), 17)


def test_the_commands(images, tmp_path):
    out, options = tmp_path / "out", ("--model", "mini:student", "--shard-size", 4, "--workers", 0)
    with pytest.raises(ClipAlignError, match="holds no features: make them with"):
        call("embed", "--out", out, "--status")
    printed = call("embed", images, *options, "--out", out, "--shard", "1/2")
    assert f"share 1/2 is done, others are missing: {out}" in printed
    printed = call("embed", "--out", out, "--status")
    assert "unfinished, 3 of 5 shards are there, 10 of 18 images, 2 of them skipped" in printed
    assert "share 1/2" in printed
    assert "images/s" in printed
    assert "skipped dog/10.png: " in printed
    assert "16 images, features of dimension" in call("embed", images, *options, "--out", out, "--shard", "2/2")
    assert f"{out}: complete, 18 images in 5 shards, 2 of them skipped" in call("embed", "--out", out, "--status")
    call("embed", images, *options, "--out", tmp_path / "plain")
    assert store_files(out) == store_files(tmp_path / "plain")


def status_of(*ways, done=(0, 2, 4), n_shards=5):
    workers = tuple(
        workers_module.Worker(f"a:{n}", way, {}, 1.0, ended=True, silent=5.0) for n, way in enumerate(ways)
    )
    return ExtractionStatus(False, done, n_shards, 18, 10, (), (), workers)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (
            status_of("share 1/2"),
            "run the same command with --shard 2/2, or without --shard, to make all",
        ),
        (status_of("share 1/2", done=(0,)), "with each of --shard 1/2, --shard 2/2, or"),
        (status_of("share 1/2", "share 1/3"), "run the same command without --shard, to make all that is missing"),
        (status_of("share 1/20", done=(0,), n_shards=20), "--shard 9/20 and 11 others, or without"),
        (status_of("plain"), "run the same command again, to resume"),
        (status_of(), "run the same command again, to resume"),
    ],
)
def test_what_is_missing_is_named(status, advice, monkeypatch, tmp_path):
    monkeypatch.setattr("hf_clipalign.features.engines.status.extraction_status", lambda folder: status)
    printed = call("embed", "--out", tmp_path, "--status")
    assert "no worker is known to be at work: " in printed
    assert advice in printed


@pytest.mark.parametrize("wrong", ["2", "a/b", "1/2/3", "", "0/3", "4/3", "-1/3"])
def test_a_share_that_is_none(images, tmp_path, wrong):
    with pytest.raises(ClipAlignError, match="share"):
        call("embed", images, "--model", "mini:student", "--out", tmp_path / "out", f"--shard={wrong}")


def test_overwrite_and_shares_exclude_each_other(images, tmp_path):
    with pytest.raises(ClipAlignError, match="--overwrite would remove what other shares have made"):
        call("embed", images, "--model", "mini:student", "--out", tmp_path / "out", "--shard", "1/2", "--overwrite")


def test_without_data_only_the_status_works(tmp_path):
    assert "DATA" in call("embed", "--model", "mini:student", code=2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 seconds"), (119, "119 seconds"), (150, "2.5 minutes"), (36000, "10 hours"), (864000, "10 days")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
