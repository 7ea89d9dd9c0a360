"""The page: its panels and what happens when they are used. All state is in the page of each user."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hf_clipalign._errors import ClipAlignError
from hf_clipalign.app.answers import answer
from hf_clipalign.app.asking import ask
from hf_clipalign.app.clusters import Report
from hf_clipalign.app.folder_report import Concepts
from hf_clipalign.app.serving.uploads import MAX_BYTES, Uploads
from hf_clipalign.app.views import markup
from hf_clipalign.app.views.reports import duplicates_page, folder_page
from hf_clipalign.app.workspace import Workspace, describe

logger = logging.getLogger(__name__)

_TOP_K = 12
_MOST = 100
_NO_LIMIT = 100_000
_LEAST_SIMILARITY = 0.8
_MOST_NAMES, _MOST_GROUPS = 20_000, 40
_NOTHING_ASKED = "Write what to look for, or give an image."
_CONCURRENT = 4
_LEAST = "Leave out images with a confidence below (%)"
_SLIDERS = {"ca-k-top": "k_top: trim the strongest", "ca-k-bottom": "k_bottom: trim the weakest"}


@dataclass(frozen=True)
class Page:
    """What the panels work with.

    Args:
        workspace (`Workspace`): the collection.
        uploads (`Uploads`): images that were given.
        concepts (`Concepts`): what is in the folder.
    """

    workspace: Workspace
    uploads: Uploads
    concepts: Concepts

    def search(
        self,
        line: str,
        token: str,
        k_top: float,
        k_bottom: float,
        top_k: float,
        conditions: str,
        least: float = 0,
    ) -> str:
        """The results of a query."""
        if not (line or "").strip() and not token:
            return markup.message(_NOTHING_ASKED)
        view = self.workspace.view
        band = _position("k_top", k_top, 0, _NO_LIMIT), _position("k_bottom", k_bottom, 0, _NO_LIMIT)
        shown = _position("the number of images", top_k, 1, _MOST)
        confidence = _position("the least confidence", least, 0, 100) / 100
        asked = ask(self.workspace, self.uploads, line or "", token or "", view)
        return markup.results(view, answer(view, asked, band, shown, conditions or "", confidence), shown)

    def spectrum(self, k_top: float, k_bottom: float) -> str:
        """The singular values, with the band."""
        band = _position("k_top", k_top, 0, _NO_LIMIT), _position("k_bottom", k_bottom, 0, _NO_LIMIT)
        return markup.spectrum(self.workspace.view.bands.singular_values, band)

    def duplicates(self, threshold: float) -> str:
        """What is there more than once."""
        if not isinstance(threshold, (int, float)) or not _LEAST_SIMILARITY <= threshold <= 1:
            raise ClipAlignError(f"the similarity must be a number from {_LEAST_SIMILARITY} to 1.")
        return duplicates_page(self.workspace.view, float(threshold))

    def look(self, words: str, size: float, n_clusters: float, say: Report) -> str:
        """What is in the folder."""
        n_names = _position("the number of names", size, 2, _MOST_NAMES)
        n_groups = _position("the number of groups", n_clusters, 0, _MOST_GROUPS)
        return folder_page(self.workspace.view, self.concepts, words or "", n_names, n_groups, say)

    def header(self) -> str:
        """What the page says about the collection."""
        progress = self.workspace.progress()
        lines = []
        if progress.state == "embedding":
            share = 100 * progress.done / progress.total if progress.total else None
            lines.append(markup.message(describe(progress), "note", share))
        if progress.message:
            lines.append(markup.message(progress.message, "error"))
        return "".join([*lines, *map(markup.message, self.workspace.all_notes())])

    def moved_band(self, shown: str, sliders: tuple[float, float]) -> tuple[int, int] | None:
        """Where the sliders are to be moved; None if they stay where they are.

        Args:
            shown (`str`): where they were moved last; empty if they were not shown yet.
            sliders (`(float, float)`): where they are now: a user who moved them is left alone.
        """
        if self.workspace.progress().state != "ready":
            return None
        band = self.band()
        return band if not shown or (shown != _written(band) and shown == _written(sliders)) else None

    def band(self) -> tuple[int, int]:
        """Where the sliders begin: the index's own band, else a suggestion from the spectrum."""
        import torch

        from hf_clipalign.isoclip import suggest_band

        view = self.workspace.view
        if view.index.band is not None:
            return view.index.band
        try:
            return suggest_band(torch.from_numpy(view.bands.singular_values))
        except ClipAlignError:
            return 0, 0


def _written(band: tuple[float, float]) -> str:
    return f"{band[0]:g},{band[1]:g}"


def _position(name: str, value: Any, least: int, most: int) -> int:
    """Where a slider of the page stands: a request may hold anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ClipAlignError(f"{name} must be a number from {least:,} to {most:,}.")
    return int(value)


def guarded(function: Callable[..., str]) -> Callable[..., str]:
    """A function of the page whose errors are shown as one line."""

    def run(*values: Any) -> str:
        try:
            return function(*values)
        except ClipAlignError as error:
            return markup.message(str(error), "error")
        except Exception:
            logger.exception("the app met an unexpected error")
            return markup.message("An unexpected error: the terminal in which the app runs says more.", "error")

    return run


def build(page: Page) -> Any:
    """The page as Gradio's blocks."""
    import gradio as gr

    with gr.Blocks(title="clipalign", analytics_enabled=False) as blocks:
        gr.HTML('<header class="ca-head"><h1>clipalign: search a folder of images</h1></header>')
        header = gr.HTML(page.header())
        with gr.Tabs(elem_id="ca-tabs"):
            with gr.Tab("Search"):
                sliders, spectrum = _search_tab(gr, page)
            with gr.Tab("Duplicates"):
                _duplicates_tab(gr, page)
            with gr.Tab("Contents"):
                _folder_tab(gr, page)
        timer = gr.Timer(1.0)

        shown = gr.Textbox("", visible="hidden", label="band")  # a gr.State would keep a connection open

        def poll(shown: str, k_top: float, k_bottom: float) -> tuple[Any, ...]:
            waiting, header, moved = gr.Timer(active=page.workspace.is_waiting), page.header(), [gr.skip()] * 4
            try:
                if band := page.moved_band(shown or "", (k_top, k_bottom)):
                    most = page.workspace.view.bands.rank - 1
                    set_to = (gr.Slider(maximum=most, value=value, visible=True) for value in band)
                    moved = [_written(band), *set_to, page.spectrum(*band)]
            except ClipAlignError as error:
                header = markup.message(str(error), "error")
            return header, *moved, waiting

        for event in (blocks.load, timer.tick):
            event(
                poll,
                inputs=[shown, *sliders],
                outputs=[header, shown, *sliders, spectrum, timer],
                show_progress="hidden",
                concurrency_limit=_CONCURRENT,
                api_visibility="private",
            )
    return blocks


def _search_tab(gr: Any, page: Page) -> tuple[list[Any], Any]:
    with gr.Row():
        with gr.Column(scale=3, min_width=280), gr.Row():
            line = gr.Textbox(
                label="Words",
                placeholder='a red car     or     "red car" - "toy" + cars/photo.jpg',
                info="Words; or parts joined with + and -: words in quotation marks, names of images.",
                max_lines=1,
                max_length=20_000,
                elem_id="ca-line",
                scale=4,
                min_width=240,
            )
            button = gr.Button("Search", variant="primary", elem_id="ca-search", scale=1, min_width=100)
        with gr.Column(scale=2, min_width=280):
            gr.HTML(markup.drop_zone(MAX_BYTES))
    token = gr.Textbox(visible="hidden", elem_id="ca-token", max_length=200)
    with gr.Row():
        with gr.Column(scale=3, min_width=280):
            with gr.Row():
                k_top, k_bottom = (
                    gr.Slider(
                        0, _NO_LIMIT, 0, step=1, label=label, elem_id=name, visible=False, buttons=[], min_width=220
                    )
                    for name, label in _SLIDERS.items()
                )
            least = gr.Slider(0, 100, 0, step=1, label=_LEAST, elem_id="ca-least", buttons=[])
        with gr.Column(scale=2, min_width=280):
            spectrum = gr.HTML()
    with gr.Accordion("More", open=False):
        top_k = gr.Slider(1, _MOST, _TOP_K, step=1, label="Images of each head")
        conditions = gr.Textbox(
            label="Only files with",
            placeholder="path=holidays/*  class=cat  since=2024  min_size=200kB",
            max_length=2_000,
        )
    results = gr.HTML(markup.message(_NOTHING_ASKED), elem_id="ca-results")
    inputs = [line, token, k_top, k_bottom, top_k, conditions, least]
    search = {"inputs": inputs, "outputs": results, "show_progress": "hidden", "trigger_mode": "always_last"}
    search |= {"concurrency_limit": _CONCURRENT, "api_visibility": "private"}
    gr.on([line.submit, button.click, token.change, top_k.release, conditions.submit], guarded(page.search), **search)
    least.input(guarded(page.search), **search)
    for slider in (k_top, k_bottom):
        slider.input(guarded(page.search), **search)
        slider.input(
            guarded(page.spectrum),
            **(search | {"inputs": [k_top, k_bottom], "outputs": spectrum}),
        )
    return [k_top, k_bottom], spectrum


def _duplicates_tab(gr: Any, page: Page) -> None:
    threshold = gr.Slider(
        _LEAST_SIMILARITY, 1.0, 0.95, step=0.005, label="Smallest similarity (cosine)", elem_id="ca-threshold"
    )
    button = gr.Button("Find duplicates", variant="primary")
    found = gr.HTML(markup.message("Nothing is ever deleted: you see what is there more than once."))

    button.click(
        guarded(page.duplicates),
        threshold,
        found,
        show_progress="minimal",
        concurrency_limit=1,
        api_visibility="private",
    )


def _folder_tab(gr: Any, page: Page) -> None:
    gr.HTML('<h2 class="ca-title">What is in this folder</h2>')
    words = gr.Textbox(
        label="Words to look for, separated by commas",
        placeholder="empty: the most frequent names of physical things from WordNet",
        max_length=200_000,
        lines=2,
    )
    discovery = page.concepts.discovery
    with gr.Row():
        size = gr.Slider(
            200, _MOST_NAMES, 2_000, step=100, label="Names from WordNet, if you give no words", min_width=240
        )
        n_clusters = gr.Slider(
            0, _MOST_GROUPS, 8, step=1, label="Groups of images", visible=discovery is None, min_width=240
        )
    button = gr.Button("Look", variant="primary")
    about = "The concepts that tell the images apart, and groups that they name."
    if discovery is not None:
        about = f"The concepts that tell the images apart, and the classes that {discovery.name} sorts them into."
    found = gr.HTML(markup.message(about))

    def look(words: str, size: float, n_clusters: float, progress: Any = None) -> str:
        say = (lambda share, text: None) if progress is None else (lambda share, text: progress(share, desc=text))
        return page.look(words, size, n_clusters, say)

    def run(words: str, size: float, n_clusters: float, progress: Any = gr.Progress()) -> str:  # noqa: B008
        return guarded(look)(words, size, n_clusters, progress)

    button.click(
        run,
        [words, size, n_clusters],
        found,
        show_progress="full",
        concurrency_limit=1,
        api_visibility="private",
    )
