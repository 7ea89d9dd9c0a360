"""What the commands say to someone who types them: suggestions, earlier spellings, next steps, tables that fit."""

import json
import re
import signal
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign._tables import NumberTable
from hf_clipalign.cli import main, models
from hf_clipalign.cli.app import app
from hf_clipalign.cli.command import data_as_argument, in_options
from hf_clipalign.cli.options import console
from hf_clipalign.data import load_mini
from hf_clipalign.features import FeatureStore
from hf_clipalign.hub import plan_upload

MODEL = ("--model", "mini:student")


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Four classes of noise with three images each, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 200)
    generator = np.random.default_rng(0)
    for number in range(12):
        file = tmp_path / "photos" / f"class{number % 4}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(file)
    return "photos"


@pytest.fixture
def no_model(monkeypatch):
    """Mistakes must be found before a model is loaded."""

    def refuse(*unused):
        raise AssertionError("a model was loaded")

    for command in ("embed", "evaluate", "compare", "concepts", "trim", "export", "spectrum"):
        monkeypatch.setattr(f"hf_clipalign.cli.commands.{command}.load", refuse)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    "command",
    [
        ("embed", "photos"),
        ("evaluate", "photos"),
        ("compare", "photos"),
        ("concepts", "photos"),
        ("trim",),
        ("export",),
        ("spectrum",),
    ],
)
def test_the_model_is_never_guessed(command, photos):
    with pytest.raises(ClipAlignError, match=r"which model\? Add --model with a Hub id .* or mini:student"):
        call(*command)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("embed", "photso", *MODEL), "no file or folder 'photso': did you mean 'photos'"),
        (("evaluate", "photos", "--model", "modle"), "no folder 'modle' for --model: did you mean 'model'"),
        (("evaluate", "model", "--model", "photos"), "'model' is a model, but DATA comes first|look swapped"),
        (("evaluate", "mini:student"), "'mini:student' is a model, but DATA comes first"),
        (
            ("discover", "mini:student"),
            "'mini:student' is a model, but DIR comes first: write DIR",
        ),
        (("findings", "model", "--images", "photos"), "'model' is a model, but TRAIN.csv comes first"),
        *(
            ((command, *pair), f"^'{model}' is a model: write photos --model {model}.$")
            for command, model in zip(
                ("embed", "evaluate", "compare", "concepts", "discover"),
                ("model", "mini:student", "openai/clip-vit-base-patch32", "mini-teacher", "model"),
                strict=True,
            )
            for pair in ((model, "photos"), ("photos", model))
        ),
        (
            ("evaluate", "model", "two words", "--task", "zero-shot"),
            "'model' is a model: write 'two words' --model model.",
        ),
        (
            ("findings", "model", "train.csv", "--images", "photos"),
            "'model' is a model: write train.csv --model",
        ),
        (("index", "model", "photos", "two words"), "'model' is a model: write photos 'two words' --model model."),
        *(((command, "model"), "^'model' is a model: write --model model.$") for command in ("trim", "export")),
        (("spectrum", "openai/clip-vit-base-patch32"), "is a model: write --model openai/clip-vit-base-patch32.$"),
        (("embed", "photos", "--out", "model", *MODEL), "--out 'model' holds a model: give another folder"),
        (("evaluate", "photos", "--out", "model", *MODEL), "--out 'model' holds a model"),
        (("concepts", "photos", "--out", "model", *MODEL), "--out 'model' holds a model"),
        (("embed", "photos", "--out", "./photos", *MODEL), "--out 'photos' is what is read: give another folder"),
        (("evaluate", "photos", "--out", "photos", *MODEL), "--out 'photos' is what is read"),
        (("compare", "photos", "--gallery", "two", "--out", "two", *MODEL), "--out 'two' is what is read"),
        (("concepts", "photos", "--out", "photos", *MODEL), "--out 'photos' is what is read"),
        (("discover", "photos", *MODEL, "--teacher", "mini:teacher"), "and name it with --unlabelled$"),
        (("embed", "photos", "--model", "photos"), "--model 'photos' is a folder without a model"),
        (("evaluate", "flat", *MODEL), "'flat' has no labels to score against"),
        (("compare", "flat", *MODEL), "'flat' has no labels to score against"),
        (("evaluate", "flat", "--task", "zero-shot", *MODEL), "'flat' has no labels to score against"),
        (
            ("evaluate", "photos", "--task", "ncm", "--train", "flat", "--image-band", "1,2", *MODEL),
            "'flat' has no lab",
        ),
        (("evaluate", "two", *MODEL), "2 classes, too few .*--image-band K_TOP,K_BOTTOM"),
        (("evaluate", "photos", "--heads", "isoclp", *MODEL), "unknown head 'isoclp': did you mean 'isoclip'"),
        (("evaluate", "photos", "--task", "image-imgae", *MODEL), "did you mean 'image-image'"),
        (("evaluate", "photos", "--text-band", "1,2", *MODEL), "--text-band is not for --task image-image"),
        (("evaluate", "photos", "--out", "file", *MODEL), "--out 'file' is a file: name a folder"),
        (("embed", "photos", "--out", "file", *MODEL), "--out 'file' is a file: name a folder"),
        (("trim", "--out", "file", *MODEL), "--out 'file' is a file: name a folder"),
        (("spectrum", "--out", "x.xyz", *MODEL), r"'x\.xyz' is no plot: name a file that ends in \.png, \.svg, \.pdf"),
        (("spectrum", "--out", "photos", *MODEL), "'photos' is no plot"),
        (("push", "model", "name"), "'name' is no repository: write OWNER/name"),
        (("trim", "--push-to-hub", "name", *MODEL), "'name' is no repository: write OWNER/name"),
        (("push", "modle", "me/name"), "did you mean 'model'"),
    ],
)
def test_mistakes_are_explained_before_anything_is_computed(arguments, message, photos, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("flat/1.png", "flat/2.png", "two/a/1.png", "two/b/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(ClipAlignError, match=message) as error:
        call(*arguments)
    assert len(str(error.value).splitlines()) == 1


COMMANDS = {
    **dict.fromkeys(("embed", "evaluate", "compare", "concepts"), ("photos", *MODEL)),
    **{"discover": ("photos", *MODEL, "--teacher", "mini:teacher"), "trim": MODEL, "export": MODEL, "spectrum": MODEL},
    "findings": ("train.csv", "--images", "photos", *MODEL),
    "push": ("model", "me/name"),
    **dict.fromkeys(("demo", "app"), ()),
    "index": ("photos", *MODEL),
    "import": ("laion", "--out", "embeddings"),
    "search": ("photos.index", "a red fox"),
    **dict.fromkeys(("duplicates", "select", "status", "verify"), ("photos.index",)),
}
RESUMING = {"embed", "concepts", "discover", "findings", "import", "index"}


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_is_one_line_that_says_whether_the_command_resumes(command, photos, monkeypatch, capfd):
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(*unused):
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperCommand.invoke", interrupt)
    monkeypatch.setattr(sys, "argv", ["clipalign", command, *COMMANDS[command]])
    try:
        with pytest.raises(SystemExit) as leaving:
            main()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert leaving.value.code == 130
    line = "interrupted; run the same command again to resume" if command in RESUMING else "interrupted"
    assert capfd.readouterr().err == f"{line}\n"


def test_all_commands_are_interrupted():
    assert set(COMMANDS) == {command.name or command.callback.__name__ for command in app.registered_commands}


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "photos", "others"),
        ("evaluate", "model", "photos", "--model", "mini:student"),
        ("embed", "photos/1.png", "photos/2.png", "model"),
        ("embed", "mini:student", "mini:teacher"),
        ("push", "model", "me/name", "mini:student"),
    ],
)
def test_further_arguments_that_are_no_misplaced_model_are_wrong_usage(arguments, photos):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "unexpected extra argument" in result.output


def test_misspelt_methods_are_suggested(photos):
    with pytest.raises(ClipAlignError, match="unknown method 'isoclop': did you mean 'isoclip'"):
        call("compare", photos, *MODEL, "--methods", "raw,isoclop")


def test_what_cannot_be_pushed_is_no_next_step(photos):
    pytest.importorskip("faiss")
    call("embed", photos, *MODEL, "--out", "features")
    index = call("export", *MODEL, "--image-band", "1,48", "--to", "faiss", "--features", "features", "--out", "index")
    assert "push" not in index
    stock = call("export", *MODEL, "--image-band", "1,48", "--out", "tower")
    assert "next: clipalign push tower OWNER/NAME" in stock
    assert plan_upload("tower").files


def test_earlier_spellings_still_work(photos, tmp_path):
    for number, arguments in enumerate(
        (
            ("evaluate", photos, "--band", "1,2"),
            ("compare", "--data", photos, "--methods", "baseline,isoclip", "--band", "1,2"),
            ("compare", f"--data={photos}", "--methods", "raw,isoclip", "--image-band", "1,2"),
            ("evaluate", photos, "--image-band", "1,2", "--model", "mini-student"),
        )
    ):
        model = () if "--model" in arguments else MODEL
        call(*arguments, *model, "--out", f"out{number}")
        results = json.loads((tmp_path / f"out{number}" / "results.json").read_text())
        assert results["band"] == [1, 2]
        assert results["comparison"]["scores"][0]["head"] == "raw"
    assert data_as_argument(["--images", "a b", "--out", "c", "--dataset=d"]) == ["a b", "--out", "c", "d"]


def test_earlier_spellings_are_not_advertised():
    for command in ("evaluate", "compare", "embed", "concepts"):
        page = call(command, "--help")
        assert not re.search(r"--(band|data|images)\b", page)
        assert re.search(r"Usage: .*DATA", page)


def test_errors_name_options():
    options = {"overwrite": "--overwrite", "n_tokens": "--n-tokens", "steps": "--steps", "num_workers": "--workers"}
    for message, expected in (
        ("other data; pass overwrite=True.", "other data; pass --overwrite."),
        ("n_tokens is 0: give 1 or more.", "--n-tokens is 0: give 1 or more."),
        ("oti: steps is 0", "oti: --steps is 0"),
        ("set num_workers=0 to see it", "set --workers 0 to see it"),
        ("log in with `hf auth login`, set HF_TOKEN or give token=.", "log in with `hf auth login`, set HF_TOKEN."),
        ("the folder 'my_n_tokens/steps is 1' has steps", "the folder 'my_n_tokens/steps is 1' has steps"),
        ("--overwrite replaces it", "--overwrite replaces it"),
        ("use set_steps(n_tokens=(a, b)) or `clipalign index IDX`.", "use `clipalign index IDX`."),
        ("mend it with `clipalign index IDX`, or a.update(steps=f(1)).", "mend it with `clipalign index IDX`."),
    ):
        assert in_options(message, options) == expected


def test_other_data_in_the_folder_of_features_name_the_option(photos):
    call("embed", photos, *MODEL, "--out", "features", "--workers", 0)
    with pytest.raises(ClipAlignError, match="--overwrite") as error:
        call("embed", photos, "--model", "mini:teacher", "--out", "features", "--workers", 0)
    assert "overwrite=" not in str(error.value)


def test_a_built_in_model_on_own_images_is_announced(photos):
    for command in (("embed", photos, "--workers", 0), ("evaluate", photos, "--image-band", "1,2")):
        printed = call(*command, *MODEL)
        assert "mini:student is a tiny model of emoji and icons, not for photographs" in printed


def test_built_in_data_need_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "width", 200)
    few = load_mini().emoji_subset(styles=["noto", "twemoji"], novel=True).select(range(24))
    monkeypatch.setattr(type(load_mini()), "emoji_subset", lambda *unused, **also_unused: few)
    printed = call("embed", "mini:emoji", "--workers", 0)
    assert "24 images" in printed
    assert "not for photographs" not in printed
    assert FeatureStore.open("features").model == "mini:student"


def test_features_know_the_model_that_they_were_made_with(photos, tmp_path):
    call("embed", photos, "--model", "mini:teacher", "--workers", 0)
    call("evaluate", "features", "--image-band", "1,2")
    assert json.loads((tmp_path / "evaluation" / "results.json").read_text())["model"] == "mini:teacher"


def test_every_command_says_what_comes_next(photos):
    for arguments, following in (
        (("spectrum", *MODEL), "clipalign evaluate DATA --model mini:student"),
        (("embed", photos, *MODEL, "--workers", 0), "clipalign evaluate features --model mini:student"),
        (("evaluate", "features", "--image-band", "1,2"), "clipalign (trim|compare) .*--model mini:student"),
        (("compare", "features", "--methods", "raw,centred"), "clipalign evaluate features --model mini:student"),
        (("concepts", "features", "--top", 1, "--dictionary", "names.txt"), "--dictionary concepts/concepts.csv"),
        (("trim", *MODEL, "--image-band", "1,2"), "clipalign push isoclip OWNER/NAME"),
        (("export", *MODEL, "--image-band", "1,2"), "clipalign push stock-image OWNER/NAME"),
    ):
        with open("names.txt", "w") as file:
            file.write("cat\ndog\nowl\n")
        (line,) = [line for line in call(*arguments).splitlines() if line.startswith("next: ")]
        assert re.search(following, line), line


def test_identical_images_can_be_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        file = tmp_path / "same" / f"class{number % 4}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 30), "red").save(file)
    call("evaluate", "same", *MODEL, "--image-band", "1,2")
    assert (tmp_path / "evaluation" / "index.html").stat().st_size > 10_000


@pytest.mark.parametrize("width", [80, 60, 40])
def test_tables_never_cut_a_number(width):
    heads = ["raw", "isoclip-compact", "a-head-with-a-very-long-name-that-must-be-folded"]
    columns = ["head", "dimension", "mAP", "mAP@R", "R-prec", "R@1", "R@5", "R@10", "mAP − raw", "ms per query"]
    rows = [[head, "1152", *["100.0"] * 6, "+12.3 [+10.1, +14.5]", "1234.5"] for head in heads]
    terminal = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    terminal.print(NumberTable(columns, rows, "a title", "a caption of many words " * 8))
    printed = terminal.export_text()
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= width
    assert printed.count("+12.3 [+10.1, +14.5]") == 3
    assert printed.count("1234.5") == 3
    assert printed.count("100.0") == 18
    assert all(column in printed for column in columns)


def test_device_auto_is_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert models.chosen_device("auto") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert models.chosen_device("auto") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert models.chosen_device("auto") == "cuda:3"
    assert models.chosen_device("cpu") == "cpu"


def test_progress_bars_leave_log_files_alone(photos, capfd):
    call("embed", photos, *MODEL, "--workers", 0)
    assert "images:" not in capfd.readouterr().err
