"""The server: the page, thumbnails, and images that users give."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files as package_files
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hf_clipalign._checks.quoting import printable
from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.discovery import Discovery
from hf_clipalign.app.folder_report import Concepts
from hf_clipalign.app.serving.guard import Guard, read_body
from hf_clipalign.app.serving.places import shown_file
from hf_clipalign.app.serving.thumbnails import Thumbnails
from hf_clipalign.app.serving.uploads import MAX_BYTES, MAX_PIXELS, Uploads, too_large
from hf_clipalign.app.views.panels import Page, build
from hf_clipalign.app.workspace import Workspace
from hf_clipalign.search.files import Files

_OLDEST_GRADIO = (6, 20)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MOST_UPLOADS = 8
"""So many images are taken in at once: each may be held in memory as a whole."""
UPLOAD_SECONDS = 60
_KINDS = {"app.js": "text/javascript", "app.css": "text/css"}
_HEAD = (
    '<link rel="stylesheet" href="ui/app.css"><script src="ui/app.js" defer></script>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
)


def application(workspace: Workspace, thumbnails: Path, is_local: bool, discovery: Discovery | None = None) -> Any:
    """The ASGI application.

    Args:
        workspace (`Workspace`): the collection.
        thumbnails (`Path`): where thumbnails are kept.
        is_local (`bool`): whether the server is bound to this machine only.
        discovery (`Discovery`, *optional*): groups the images.

    Raises:
        `ClipAlignError`: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    check_installed()
    import gradio as gr
    from fastapi import FastAPI

    uploads = Uploads(lambda data, name: _encoded(workspace, data, name))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_routes(app, workspace, uploads, Thumbnails(thumbnails))
    blocks = build(Page(workspace, uploads, Concepts(workspace, discovery)))
    theme = gr.themes.Default(font=_FONTS, font_mono=["ui-monospace", "monospace"])
    mounted = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        head=_HEAD,
    )
    return Guard(mounted, is_local)


def serve(
    workspace: Workspace, index_path: Path, host: str, port: int, say: Any, discovery: Discovery | None = None
) -> None:
    """Runs the app until it is interrupted.

    Args:
        workspace (`Workspace`): the collection.
        index_path (`Path`): of the index; thumbnails are kept in it where it can be written to.
        host (`str`), port (`int`): where to listen; port 0 takes any free one.
        say (`Callable`): is given the address once it can be opened.
        discovery (`Discovery`, *optional*): groups the images.

    Raises:
        `ClipAlignError`: Gradio is not installed, or the address cannot be used.
    """
    with _thumbnails_folder(index_path) as folder, bound(host, port) as listening:
        app = application(workspace, folder, host in LOOPBACK, discovery)
        import uvicorn

        settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
        workspace.start()
        name = f"[{host}]" if ":" in host else host
        say(f"http://{name}:{listening.getsockname()[1]}/")
        uvicorn.Server(settings).run(sockets=[listening])


def check_installed() -> None:
    """Refuses to begin without Gradio, or with one that is too old.

    Raises:
        `ClipAlignError`: it says what to install.
    """
    if find_spec("gradio") is None:
        raise ClipAlignError("the app needs Gradio: pip install 'hf_clipalign[app]'.")
    found = version("gradio")
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < _OLDEST_GRADIO:
        raise ClipAlignError(f"Gradio {found} is too old for the app: pip install -U 'hf_clipalign[app]'.")


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens.

    Raises:
        `ClipAlignError`: the address is in use or not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClipAlignError(
            f"cannot listen on {host} port {port} ({reason}): give another port, or port=0 for any free one."
        ) from None
    with listening:
        yield listening


@contextlib.contextmanager
def _thumbnails_folder(index_path: Path) -> Iterator[Path]:
    """In the index; a temporary folder beside a read-only one."""
    if os.access(index_path if index_path.exists() else index_path.parent, os.W_OK):
        yield index_path / "thumbnails"
        return
    with tempfile.TemporaryDirectory(prefix="clipalign-thumbnails-") as folder:
        yield Path(folder)


def _encoded(workspace: Workspace, data: bytes, name: str) -> Any:
    from hf_clipalign.data import read_image

    return workspace.encode_images([read_image(data, name=name, max_pixels=MAX_PIXELS)])[0]


def _files(workspace: Workspace, generation: str | None) -> Files:
    """The files as the page numbers them that asks; without a generation as they are now."""
    if generation is None:
        return workspace.view.files
    if not generation.isascii() or not generation.isdigit() or len(generation) > 18:
        raise ClipAlignError("there is nothing here.")
    return workspace.shown_files(int(generation))


def _add_routes(app: Any, workspace: Workspace, uploads: Uploads, thumbnails: Thumbnails) -> None:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, Response

    places = threading.Semaphore(MOST_UPLOADS)

    def image(request: Any, size: str) -> Response:
        try:
            path = shown_file(_files(workspace, request.query_params.get("v")), request.path_params["number"])
            data = thumbnails.get(path, size)
        except ClipAlignError as error:
            return JSONResponse({"error": str(error)}, 404)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def own_file(request: Any) -> Response:
        name = request.path_params["name"]
        if name not in _KINDS:
            return JSONResponse({"error": "there is nothing here."}, 404)
        text = (package_files("hf_clipalign.app") / "templates" / name).read_text(encoding="utf-8")
        return Response(text, media_type=_KINDS[name])

    async def upload(request: Any) -> Response:
        name = unquote(request.headers.get("x-file-name", "image"), errors="replace")
        if not places.acquire(blocking=False):
            return JSONResponse({"error": "other images are being read: try again in a moment."}, 503)
        try:
            data = await asyncio.wait_for(read_body(request.receive, MAX_BYTES), UPLOAD_SECONDS)
            if data is None:
                return JSONResponse({"error": too_large(name)}, 413)
            token, given = await run_in_threadpool(uploads.add, data, name)
        except asyncio.TimeoutError:
            return JSONResponse({"error": f"{printable(name)} took longer than {UPLOAD_SECONDS} s: try again."}, 408)
        except ClipAlignError as error:
            return JSONResponse({"error": str(error)}, 400)
        finally:
            places.release()
        return JSONResponse({"token": token, "name": given.name, "preview": given.preview})

    app.add_route("/thumbnails/{number:int}", lambda request: image(request, "small"))
    app.add_route("/images/{number:int}", lambda request: image(request, "large"))
    app.add_route("/ui/{name}", own_file)
    app.add_route("/uploads", upload, methods=["POST"])
