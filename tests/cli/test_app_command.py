"""`clipalign app`: what it is given, before a server runs."""

import importlib.util
import socket
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.app.serving import server as module
from hf_clipalign.cli.app import app
from hf_clipalign.data import load_mini
from hf_clipalign.gcd import SpectralGCDModel
from hf_clipalign.search import ImageIndex, UpdateReport


def call(*arguments):
    result = CliRunner().invoke(app, ["app", *map(str, arguments)])
    if isinstance(result.exception, ClipAlignError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def served(monkeypatch):
    """What would be served, with the index made."""
    calls = []

    def serve(workspace, index_path, host, port, say, discovery=None):
        workspace.prepare()
        workspace.discovery = discovery
        calls.append((workspace, index_path, host, port))
        say(f"http://{host}:{port}/")

    monkeypatch.setattr(module, "serve", serve)
    monkeypatch.setattr(module, "check_installed", lambda: None)
    return calls


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "shop").mkdir()
    for number in range(3):
        Image.effect_noise((30 + number, 30), 90).save(tmp_path / "shop" / f"{number}.png")
    return tmp_path / "shop"


def test_a_folder_is_indexed_beside_it_and_found_again(served, folder):
    output = call(folder, "--model", "mini:student", "--band", "2,30", "--port", "0")
    (workspace, path, host, port) = served.pop()
    assert workspace.progress().state == "ready"
    assert (path, host, port) == (folder.with_name("shop.index"), "127.0.0.1", 0)
    assert workspace.view.index.band == (2, 30)
    assert "mini:student is a tiny model of emoji and icons, not for photographs" in output
    assert workspace.notes
    Image.effect_noise((50, 50), 90).save(folder / "new.png")
    call(folder)
    assert len(served.pop()[0].view) == 4, "new images are embedded"
    Image.effect_noise((51, 50), 90).save(folder / "newer.png")
    call(path)
    assert len(served.pop()[0].view) == 4, "an index is shown as it is"
    call(path, "--model", "mini:student")
    assert len(served.pop()[0].view) == 5
    call(path, "--model", "mini:teacher")
    assert "made with another model" in served.pop()[0].progress().message


def test_the_built_in_images_need_nothing(served, monkeypatch):
    counts = []

    def update(index, **options):
        counts.append(sum(path.suffix == ".png" for path in Path(index.roots[0]).rglob("*")))
        return UpdateReport()

    monkeypatch.setattr(ImageIndex, "update", update)
    call()
    assert counts == [902]
    workspace, path, _, port = served.pop()
    assert workspace.progress().message.startswith("there are no images in"), "they are written and not embedded here"
    assert workspace.template == "an emoji of {}"
    assert workspace.notes == []
    assert port == 7860
    assert not path.exists(), "nothing is left behind"


def test_another_address_is_warned_of(served, folder):
    assert "everyone who can reach 0.0.0.0" in call(folder, "--model", "mini:student", "--host", "0.0.0.0")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["shopp", "--model", "mini:student"], "did you mean"),
        (["nowhere/at/all", "--model", "mini:student"], "no folder"),
        (["shop"], "which model"),
        (["shop", "--model", "mini:student", "--band", "x"], "is no band"),
    ],
)
def test_what_cannot_be_shown(served, folder, monkeypatch, arguments, says):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ClipAlignError, match=says):
        call(*arguments)
    assert served == []


def test_without_gradio_it_says_what_to_install(folder, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "gradio" else find_spec(name))
    with pytest.raises(ClipAlignError, match=r"pip install 'hf_clipalign\[app\]'"):
        call(folder, "--model", "mini:student")


@pytest.mark.parametrize("old", ["4.44.1", "5.50.0", "6.19.9"])
def test_a_gradio_that_is_too_old_is_one_line(monkeypatch, old):
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "version", lambda name: old)
    with pytest.raises(ClipAlignError, match=rf"Gradio {old} is too old for the app: pip install -U") as error:
        module.check_installed()
    assert "\n" not in str(error.value)
    for new in ("6.20", "6.31.0", "7.0rc1"):
        monkeypatch.setattr(module, "version", lambda name, new=new: new)
        module.check_installed()


def test_the_index_of_another_folder_is_not_shown_for_this_one(served, folder, tmp_path):
    (tmp_path / "other").mkdir()
    ImageIndex.create(tmp_path / "other", load_mini().student_path, tmp_path / "shop.index")
    with pytest.raises(ClipAlignError, match=r"is the index of '.*other', not of '.*shop': show it with") as error:
        call(folder)
    assert "\n" not in str(error.value)
    assert served == []


@pytest.fixture
def discovered(tmp_path):
    """The folder that `clipalign discover` writes, as far as the app reads it."""
    mini = load_mini()
    sizes = {"hidden_size": 16, "mlp_hidden_size": 16, "bottleneck_size": 8}
    given = (mini.student, ["fur", "wheel"], ["cat", "car"], 1)
    model = SpectralGCDModel.from_student(*given, processor=mini.student_processor, **sizes)
    model.save_pretrained(tmp_path / "found" / "model")
    return tmp_path / "found"


def test_a_model_of_discover_is_found_in_its_folder(served, folder, discovered):
    for given in (discovered, discovered / "model"):
        call(folder, "--model", "mini:student", "--discovery", given)
        discovery = served.pop()[0].discovery
        assert discovery.model.config.class_names == ["cat", "car"]
        assert discovery.name == given.name
    call(folder)
    assert served.pop()[0].discovery is None


@pytest.mark.parametrize(
    ("name", "says"), [("fuond", "did you mean"), ("shop", "model"), ("none/at/all", "no folder")]
)
def test_what_is_no_model_of_discover(served, folder, discovered, monkeypatch, name, says):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ClipAlignError, match=says) as error:
        call("shop", "--model", "mini:student", "--discovery", name)
    assert "\n" not in str(error.value)
    assert served == []


def test_a_clip_is_no_model_of_discover(served, folder):
    with pytest.raises(ClipAlignError) as error:
        call(folder, "--model", "mini:student", "--discovery", load_mini().student_path)
    assert "\n" not in str(error.value)


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ClipAlignError, match=f"cannot listen on 127.0.0.1 port {port}"),
            module.bound("127.0.0.1", port),
        ):
            pass
    with pytest.raises(ClipAlignError, match="cannot listen on"), module.bound("no.such.host.invalid", 1):
        pass
