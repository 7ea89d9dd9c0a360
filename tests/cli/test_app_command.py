"""`clipalign app`: what it is given, before a server runs."""

import importlib.util
import socket

import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_clipalign import ClipAlignError
from hf_clipalign.app.serving import server as module
from hf_clipalign.cli.app import app
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

    def serve(workspace, index_path, host, port, say):
        workspace.prepare()
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
    monkeypatch.setattr(ImageIndex, "update", lambda self, **options: UpdateReport())
    call()
    workspace, path, _, port = served.pop()
    assert workspace.progress().message.startswith("there are no images in"), "they are written and not embedded here"
    assert workspace._total == 902
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
