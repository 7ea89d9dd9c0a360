"""No folder that a command writes holds a token; none that can be pushed holds a path of this machine."""

import sys

import pytest

from hf_clipalign.cli.app import app
from tests.cli.calls import call
from tests.cli.test_discover import options
from tests.cli.test_discover import photos as partly_labelled  # noqa: F401
from tests.cli.test_findings import QUICK, chexpert

TOKEN = "hf_" + "AbCdEf0123456789" * 2
PERSON = "mrn123"
PUSHED = ("aligned", "tower", "discovered/model", "findings/adapter")
WRITES_NOTHING = {"status", "verify", "push", "demo", "app", "benchmarks"}
"""`push` and `demo` have tests of their own, `app` writes thumbnails only, the others print."""


def written(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_no_token_and_no_path_is_written(tmp_path, monkeypatch, partly_labelled):  # noqa: F811
    home = tmp_path / PERSON
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["clipalign", "--hub_token", TOKEN, f"HF_TOKEN={TOKEN}", str(home)])
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, TOKEN)
    folder = home / "photos"
    folder.mkdir()
    for kind in ("bird", "heart"):
        (folder / kind).symlink_to(partly_labelled / kind)
    (home / "words.txt").write_text("bird\nheart\nred heart\nowl\nhammer\nsun\n")
    for part, patients, seed in (("train", range(1, 13), 0), ("valid", range(101, 109), 1)):
        chexpert(home, part, patients, seed)
    given = set(written(home))
    model, small = ("--model", "mini:student"), ("--model", "aligned")
    commands = [
        ("spectrum", *model, "--out", "spectrum.png"),
        ("trim", *model, "--image-band", "1,48", "--out", "aligned"),
        ("embed", folder, *model, "--out", "features"),
        ("evaluate", folder, *model, "--image-band", "1,48", "--out", "evaluation"),
        ("compare", folder, *model, "--methods", "raw,isoclip", "--image-band", "1,48", "--out", "comparison"),
        ("concepts", folder, *model, "--dictionary", "words.txt", "--out", "concepts"),
        ("export", *small, "--to", "stock", "--out", "tower"),
        ("export", "features", *model, "--to", "clip-retrieval", "--out", "laion"),
        ("import", "laion", "--out", "imported"),
        ("index", folder, *model, "--head", "1,48", "--out", "idx"),
        ("search", "idx", "a bird", "--html", "hits.html"),
        ("duplicates", "idx", "--html", "duplicates.html"),
        ("select", "idx", "--diverse", "3", "--html", "select.html"),
        ("export", "idx", "--out", "vectors"),
        options(partly_labelled, home / "discovered", "--n-novel", 1, "--epochs", 2, "--check-folds", 0),
        ("findings", "train.csv", "--test", "valid.csv", "--images", ".", *QUICK, "--out", "findings"),
    ]
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {str(command[0]) for command in commands} == {n.replace("_", "-") for n in names} - WRITES_NOTHING
    for command in commands:
        call(*command)
    files = written(home)
    assert len(files) > len(given) + 40
    assert [name for name, content in files.items() if TOKEN.encode() in content] == []
    for start in PUSHED:
        assert [n for n in files if n.startswith(f"{start}/")], start
        assert [n for n, content in files.items() if n.startswith(f"{start}/") and PERSON.encode() in content] == []
