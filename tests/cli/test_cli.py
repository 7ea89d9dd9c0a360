"""The command line: once for each way to end as a person calls it, in a process of its own, else in this process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_clipalign.cli import main
from hf_clipalign.cli.options import console
from hf_clipalign.data import load_mini

STUDENT = "mini-student"
TERMINAL = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def own_process(*arguments, cwd, expect=0):
    command = [sys.executable, "-c", "from hf_clipalign.cli import main; main()", *map(str, arguments)]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, **TERMINAL, "PYTHONPATH": path}
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert result.returncode == expect, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout, result.stderr


@pytest.fixture
def clipalign(tmp_path, monkeypatch, capsys):
    """Runs a command in `tmp_path` and gives what it prints to both streams; its exit code is as expected."""
    monkeypatch.chdir(tmp_path)
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(console, "width", int(TERMINAL["COLUMNS"]))

    def run(*arguments, expect=0):
        monkeypatch.setattr(sys, "argv", ["clipalign", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leaving:
            main()
        printed, error = capsys.readouterr()
        assert (leaving.value.code or 0) == expect, printed + error
        return printed, error

    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight emoji in three styles, one folder for each emoji."""
    folder = tmp_path_factory.mktemp("photos")
    rows = load_mini().emoji_subset(styles=["noto", "twemoji", "fluent"], split="train")
    names = sorted(set(rows["name"][:]))[:8]
    for row in rows.select(np.flatnonzero(np.isin(rows["name"][:], names))):
        path = folder / row["name"].replace(":", "") / f"{row['style']}.png"
        path.parent.mkdir(exist_ok=True)
        row["image"].save(path)
    return folder


def test_help_teaches_every_command(clipalign):
    listing, _ = clipalign("--help")
    for command in ("demo", "spectrum", "evaluate", "compare", "concepts", "trim", "push", "embed"):
        assert command in listing
        page, _ = clipalign(command, "--help")
        assert "Usage" in page
        assert len(page) > 400
    assert clipalign("--version")[0].startswith("clipalign 0.")


def test_wrong_usage_has_exit_code_2(tmp_path):
    assert "No such option" in own_process("demo", "--nonsense", cwd=tmp_path, expect=2)[1]


def test_a_mistake_has_exit_code_1(tmp_path):
    _, error = own_process("trim", "--model", STUDENT, "--image-band", "100,28", cwd=tmp_path, expect=1)
    (line,) = error.splitlines()
    assert line.startswith("error:")
    assert "removes all 128" in line


@pytest.mark.slow
def test_every_command_runs_in_a_process_of_its_own(photos, tmp_path):
    own_process("embed", photos, "--model", STUDENT, "--out", "features", cwd=tmp_path)
    own_process("evaluate", "features", "--out", "report", cwd=tmp_path)
    own_process("compare", photos, "--model", STUDENT, "--task", "zero-shot", "--steps", "3", cwd=tmp_path)
    own_process("trim", "--model", STUDENT, "--image-band", "1,48", cwd=tmp_path)
    for file in ("report/index.html", "comparison/index.html", "isoclip/model.safetensors"):
        assert (tmp_path / file).stat().st_size > 2_000


def test_spectrum(tmp_path):
    printed, _ = own_process("spectrum", "--model", STUDENT, "--image-band", "1,48", cwd=tmp_path)
    assert Image.open(tmp_path / "spectrum.png").width > 500
    assert "1,48" in printed
    assert "given" in printed
    assert "ONLY a suggestion" in printed


def test_trim_writes_an_aligned_model_and_stock_towers(clipalign, tmp_path):
    printed, _ = clipalign("trim", "--model", STUDENT, "--image-band", "1,48")
    assert "text band: not aligned" in printed
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(tmp_path / "isoclip"))
    trim = ("trim", "--model", STUDENT, "--image-band", "1,48")
    clipalign(*trim, "--stock", "image", "--compact", "--out", "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["projection_dim"] == 128 - 1 - 48
    assert config["architectures"] == ["CLIPVisionModelWithProjection"]


def test_embed_names_what_it_skips(clipalign, photos):
    (photos / "broken.png").write_bytes(b"nothing")
    try:
        printed, _ = clipalign("embed", photos, "--model", STUDENT, "--out", "features")
    finally:
        (photos / "broken.png").unlink()
    assert "skipped" in printed
    assert "broken.png" in printed


def test_evaluate_chooses_a_band_on_one_half_and_reports_on_the_other(clipalign, photos, tmp_path):
    clipalign("embed", photos, "--model", STUDENT, "--out", "features")
    printed, _ = clipalign("evaluate", "features", "--out", "report")
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["band"] == results["band_search"]["band"]
    assert {score["head"] for score in results["comparison"]["scores"]} >= {"raw", "isoclip", "isoclip-compact"}
    assert results["comparison"]["n_queries"] == 12
    page = (tmp_path / "report" / "index.html").read_text()
    assert "was chosen on one half of the classes" in page
    assert "isoclip-compact" in printed


def test_evaluate_with_a_given_band_heads_and_gallery(clipalign, photos, tmp_path):
    bands = ("--image-band", "1,48", "--heads", "raw,isoclip")
    arguments = ("evaluate", photos, "--model", STUDENT, "--gallery", photos, *bands)
    clipalign(*arguments)
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert [score["head"] for score in results["comparison"]["scores"]] == ["raw", "isoclip"]
    assert results["band"] == [1, 48]
    assert results["comparison"]["n_queries"] >= 20


def test_evaluate_classification(clipalign, photos, tmp_path):
    model = ("--model", STUDENT)
    clipalign("evaluate", photos, *model, "--task", "ncm", "--train", photos, "--image-band", "1,48")
    rows = json.loads((tmp_path / "evaluation" / "results.json").read_text())["scores"]
    assert rows[0]["top1"] > 0.5
    clipalign("evaluate", photos, *model, "--task", "zero-shot", "--out", "zs")
    assert json.loads((tmp_path / "zs" / "results.json").read_text())["scores"]["top1"] > 0.5


def test_evaluate_texts(clipalign, tmp_path):
    lines = ["image,caption"]
    for number, name in enumerate(["red heart", "black cat", "green apple", "yellow star", "blue car", "white dog"]):
        lines += [f"{number}.jpg,an emoji of {name}", f"{number}.jpg,a picture of {name}"]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    clipalign("evaluate", "captions.csv", "--model", STUDENT, "--task", "text-text", "--text-band", "1,20")
    comparison = json.loads((tmp_path / "evaluation" / "results.json").read_text())["comparison"]
    assert comparison["n_queries"] == 12
    assert comparison["scores"][0]["metrics"]["map"] > 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trim", "--model", "./missing"), "no folder './missing'"),
        (("trim", "--model", STUDENT), "no band is published"),
        (("trim", "--model", STUDENT, "--image-band", "many"), "is no band: write K_TOP,K_BOTTOM"),
        (("trim", "--model", STUDENT, "--image-band", "100,28"), "removes all 128"),
        (("trim", "--model", STUDENT, "--image-band", "1,2", "--compact"), "--compact needs --stock"),
        (("evaluate", "no-such-folder/x/y", "--model", STUDENT), "no-such-folder/x/y"),
        (("evaluate", ".", "--task", "juggling"), "unknown task 'juggling'"),
        (("demo", "--model", "elephant"), "unknown model 'elephant'"),
        (("embed", "empty", "--model", STUDENT), "no images"),
        (("spectrum", "--device", "cpu"), None),
    ],
)
def test_a_mistake_gets_one_clear_line(clipalign, arguments, message, tmp_path):
    (tmp_path / "empty").mkdir()
    if message is None:
        clipalign(*arguments, expect=2)
        return
    _, error = clipalign(*arguments, expect=1)
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert message in lines[0]


def test_compare_puts_inversion_beside_the_heads(clipalign, photos, tmp_path):
    printed, _ = clipalign(
        "compare", photos, "--model", STUDENT, "--methods", "raw,isoclip,text-pca,oti", "--image-band", "1,8",
        "--steps", "4", "--evaluate-at", "0,4",
    )  # fmt: skip
    results = json.loads((tmp_path / "comparison" / "results.json").read_text())
    scores = results["comparison"]["scores"]
    assert [score["head"] for score in scores] == ["raw", "isoclip", "text-pca", "oti"]
    assert set(results["map_after_steps"]) == {"0", "4"}
    assert results["map_after_steps"]["4"] == pytest.approx(scores[3]["metrics"]["map"])
    assert scores[3]["ms_per_query"] > scores[0]["ms_per_query"] > 0
    assert "ms per query" in printed
    page = (tmp_path / "comparison" / "index.html").read_text()
    assert "ms per query" in page
    assert "data:image/png" in page


def test_compare_classifies_within_one_modality_as_the_control(clipalign, photos, tmp_path):
    clipalign("compare", photos, "--model", STUDENT, "--task", "zero-shot", "--steps", "3")
    scores = json.loads((tmp_path / "comparison" / "results.json").read_text())["scores"]
    assert [row["method"] for row in scores] == ["raw", "oti", "ovi"]


def test_compare_texts(clipalign, tmp_path):
    lines = [f"{image}.png,{text} {word}" for image, word in enumerate(("cat", "dog")) for text in ("a", "the", "red")]
    (tmp_path / "captions.csv").write_text("image,caption\n" + "\n".join(lines) + "\n")
    arguments = ["captions.csv", "--model", STUDENT, "--task", "text-text", "--methods", "raw,ovi", "--steps", "3"]
    clipalign("compare", *arguments)
    scores = json.loads((tmp_path / "comparison" / "results.json").read_text())["comparison"]["scores"]
    assert [score["head"] for score in scores] == ["raw", "ovi"]


def test_compare_explains_bad_options(clipalign, photos):
    for options, words in (
        (["--task", "magic"], "unknown task 'magic'"),
        (["--methods", "magic"], "unknown method 'magic'"),
        (["--methods", "oti", "--oti-template", "a photo"], "0 places"),
        (["--evaluate-at", "ten"], "'ten' are no steps"),
    ):
        assert words in clipalign("compare", photos, "--model", STUDENT, *options, expect=1)[1]


def test_a_misspelt_built_in_model_and_a_negative_number_of_workers(clipalign, photos):
    _, error = clipalign("embed", photos, "--model", "mini:studnt", expect=1)
    assert error.strip() == (
        "error: unknown built-in model 'mini:studnt': did you mean 'mini:student'? choose from mini:student, "
        "mini:teacher."
    )
    _, error = clipalign("embed", photos, "--model", STUDENT, "--workers", "-1", expect=2)
    assert "--workers" in error
