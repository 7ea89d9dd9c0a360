"""`clipalign app`: a page in the browser that searches a folder of images."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.cli.models import chosen_model, load, on_device, template_for
from hf_clipalign.cli.names import (
    BUILT_IN_DATA,
    holds_index,
    is_built_in_data,
    is_built_in_model,
    is_model_folder,
    nearest_path,
)
from hf_clipalign.cli.options import DeviceOption, ModelOption, TemplateOption, console, parse_band, warn

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_STYLES = ("noto", "twemoji", "fluent")
_SHARD_SIZE = 1024
_NOT_FOR_PHOTOGRAPHS = (
    "{} is a tiny model of emoji and icons, not for photographs: what it finds among photographs means little. "
    "Start the app with --model and a model of your own."
)


def app(
    data: Annotated[
        str,
        typer.Argument(metavar="[DIR_OR_IDX]", help="Folder of images, or an index. Default: built-in images."),
    ] = BUILT_IN_DATA,
    model: ModelOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where the index of a folder is kept. Default: its name with `.index` at its end."),
    ] = None,
    band: Annotated[
        str | None,
        typer.Option(metavar="K_TOP,K_BOTTOM", help="Band of a new index. Default: the model's published one."),
    ] = None,
    template: TemplateOption = None,
    discovery: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A model of [bold]clipalign discover[/]: its classes and names group the images."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; the default can be reached from here only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.", min=0, max=65535)] = 7860,
    device: DeviceOption = "auto",
) -> None:
    """Search a folder of images in the browser, with plain CLIP and the aligned head side by side.

    The page runs on this machine, loads nothing from elsewhere and shows no file outside the folder.

    Examples:

    [bold]clipalign app[/]   (the built-in images and model)

    [bold]clipalign app photos/ --model openai/clip-vit-base-patch32[/]

    [bold]clipalign app photos.index[/]

    [bold]clipalign app animals/ --model openai/clip-vit-base-patch16 --discovery found[/]
    """
    from hf_clipalign.app.serving.server import check_installed, serve

    check_installed()
    if host not in _LOOPBACK:
        warn("note:", f"everyone who can reach {printable(host)} can use this app and see the images.")
    sorter = None if discovery is None else _discovery(discovery, device)
    with tempfile.TemporaryDirectory(prefix="clipalign-app-") as scratch:
        path = Path(data) if holds_index(Path(data)) else out or _default_place(data, scratch)
        if holds_index(path):
            workspace = _opened(path, None if Path(data) == path else data, model, template, device)
        else:
            workspace = _made(data, path, scratch, model, band, template, device)
        for note in workspace.notes:
            warn("note:", note)
        say = lambda address: console.print(f"open {address}   (Ctrl-C ends it)")  # noqa: E731
        serve(workspace, path, host, port, say, sorter)


def _discovery(name: str, device: str) -> Any:
    """A SpectralGCD model, by its folder, the folder that `clipalign discover` wrote, or its Hub id."""
    from hf_clipalign.app.discovery import Discovery
    from hf_clipalign.gcd import SpectralGCDModel

    path, inside = Path(name), Path(name) / "model"
    if not path.exists() and (close := nearest_path(name)):
        raise ClipAlignError(f"no folder {name!r} for --discovery: did you mean {close!r}?")
    found = inside if is_model_folder(inside) and not is_model_folder(path) else name
    model = on_device(SpectralGCDModel.from_pretrained(found), device)
    return Discovery(model.eval(), printable(path.name if path.exists() else name))


def _opened(path: Path, folder: str | None, model: str | None, template: str | None, device: str) -> Any:
    """An index that is there; new images are embedded if it was named by its folder."""
    from hf_clipalign.app.workspace import Workspace
    from hf_clipalign.search import ImageIndex

    index = ImageIndex.open(path)
    if folder is not None and not is_built_in_data(folder) and os.path.abspath(folder) not in index.roots:
        roots = ", ".join(repr(printable(root)) for root in index.roots)
        raise ClipAlignError(
            f"{printable(str(path))!r} is the index of {roots}, not of {printable(folder)!r}: show it with "
            f"`clipalign app {printable(str(path))}`, or name another place for the index with --out."
        )
    mini = _built_in(index.description["model"]["name"] or "")
    return Workspace(
        open_index=lambda: index,
        is_to_update=folder is not None or model is not None,
        template=template_for(template, mini),
        notes=[_NOT_FOR_PHOTOGRAPHS.format(mini)] if mini else [],
        model=None if model is None else load(chosen_model(model), device, False)[0],
    )


def _made(
    data: str,
    path: Path,
    scratch: str,
    model: str | None,
    band: str | None,
    template: str | None,
    device: str,
) -> Any:
    """A new index of a folder, or of the built-in images."""
    from hf_clipalign.app.workspace import Workspace

    is_built_in = is_built_in_data(data)
    if not is_built_in and not Path(data).is_dir():
        close = nearest_path(data)
        raise ClipAlignError(f"no folder {data!r}" + (f": did you mean {close!r}?" if close else ": give one."))
    head: Any = parse_band(band) or "auto"
    name = chosen_model(model, None if is_built_in_model(model or "") else data)
    folder = str(Path(scratch) / "emoji") if is_built_in else os.path.abspath(data)

    def made() -> Any:
        from hf_clipalign.search import ImageIndex

        if is_built_in:
            _write_mini(Path(folder))
        loaded, processor = load(name, device)
        return ImageIndex.create(folder, loaded, path, processor=processor, head=head, shard_size=_SHARD_SIZE)

    return Workspace(
        open_index=made,
        is_to_update=True,
        template=template_for(template, name),
        notes=[_NOT_FOR_PHOTOGRAPHS.format(name)] if is_built_in_model(name) and not is_built_in else [],
        may_choose_band=band is None,
    )


def _default_place(data: str, scratch: str) -> Path:
    if is_built_in_data(data):
        return Path(scratch) / "index"
    folder = Path(os.path.abspath(data))
    return folder.with_name(f"{folder.name}.index")


def _write_mini(folder: Path) -> None:
    """The built-in images as files: an index is one of files."""
    from hf_clipalign.data import load_mini

    for row in load_mini().emoji_subset(styles=_STYLES, novel=True):
        place = folder / row["group"].replace(" ", "-").replace("&", "and")
        place.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() or letter in " -" else "_" for letter in row["name"])
        row["image"].save(place / f"{name} ({row['style']}).png")


def _built_in(name: str) -> str:
    """The name of a built-in model that a path leads to; empty for others."""
    from hf_clipalign.data import load_mini

    if is_built_in_model(name):
        return name
    mini = load_mini()
    paths = {str(mini.student_path): "mini:student", str(mini.teacher_path): "mini:teacher"}
    return paths.get(str(Path(name).absolute()), "") if name else ""
