"""How long the app takes to answer for 50,000 images, and to follow a slider: from the request to the page's HTML.

    python benchmarks/app.py
    python benchmarks/app.py --images 5000

Features and projectors have the sizes of a ViT-B/32 and random values; words are left out, as their time is that of
the text tower. Seconds are those of the clock, and of all processors together (which other programs on the machine
change less).
"""

from __future__ import annotations

import argparse
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from hf_clipalign.app.bands import Bands
from hf_clipalign.app.folder_report import Concepts
from hf_clipalign.app.serving.uploads import Uploads
from hf_clipalign.app.view import View
from hf_clipalign.app.views.panels import Page
from hf_clipalign.app.workspace import Workspace
from hf_clipalign.search import Calibration, Files, as_rows

WIDTH, D, SHOWN = 768, 512, 12
BAND = (8, 64)


class Held(Workspace):
    """A collection in memory."""

    held: Any = None

    @property
    def view(self) -> View:
        return self.held


def files_of(n: int) -> Files:
    names = [f"{number // 1000:03d}/photo {number:06d}.jpg" for number in range(n)]
    zeros = np.zeros(n, np.int64)
    return Files(["/photos"], zeros, names, zeros + 1000, zeros.astype(float), np.arange(n))


def collection(n: int) -> Page:
    """A page of n random images, with a calibration of both heads."""
    random = np.random.default_rng(0)
    features = as_rows(random.standard_normal((n, WIDTH), dtype=np.float32))
    matrices = {"image": random.standard_normal((D, WIDTH)), "text": random.standard_normal((D, D))}
    matrices = {name: matrix.astype(np.float32) / 25 for name, matrix in matrices.items()}
    sample = features.read(0, 2000) @ matrices["image"].T
    sample /= np.linalg.norm(sample, axis=1, keepdims=True)
    views = sample[:200, None] + 0.03 * random.standard_normal((200, 4, D)).astype(np.float32)
    calibration = Calibration.fit(sample, views, range(200))
    index: Any = SimpleNamespace(
        features=lambda: features,
        projector=lambda head, modality: matrices[modality],
        calibration=lambda head: calibration,
        files=files_of(n),
        generation=1,
        band=BAND,
    )
    view = timed("lengths of plain CLIP, once", lambda: View(index))
    view.__dict__["_bands"] = timed(
        "coordinates, once",
        lambda: Bands(features, SimpleNamespace(matrices=matrices)),  # type: ignore[arg-type]
    )
    timed("lengths without trimming, once", lambda: view.bands.lengths((0, 0)))
    workspace = Held(lambda: index, is_to_update=False, template="{}")
    workspace.held = view
    workspace._files[1] = view.files
    return Page(workspace, Uploads(lambda data, name: features.read(0, 1)[0]), Concepts(workspace))


def main() -> None:
    """Prints a line for each step, and the median and the largest of each kind of request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    args = parser.parse_args()
    page = collection(args.images)

    def ask(number: int, band: tuple[int, int], conditions: str = "", least: int = 0) -> str:
        return page.search("", f"file:1.{number}", *band, SHOWN, conditions, least)

    rows = range(7, args.images, args.images // 20)
    ask(3, BAND)
    summary("a query", [lambda row=row: ask(row, BAND) for row in rows])
    summary("a query with conditions", [lambda row=row: ask(row, BAND, "path=0*/*7.jpg min_size=1") for row in rows])
    summary("a query with a least confidence", [lambda row=row: ask(row, BAND, least=50) for row in rows])
    summary("a query by a name", [lambda: page.search("000/photo 000007.jpg", "", *BAND, SHOWN, "")] * 20)
    summary("a slider by one", [lambda k=k: ask(7, (k, BAND[1])) for k in range(9, 30)])
    summary("a slider by ten", [lambda k=k: ask(7, (BAND[0], k)) for k in range(70, 270, 10)])
    jumps = [(300, 0), (0, 300), (200, 200), (0, 0), (400, 20), (10, 400)]
    summary("a jump across the spectrum", [lambda band=band: ask(7, band) for band in jumps])


def summary(what: str, requests: list[Any]) -> None:
    """Runs requests and prints the median and the largest of their times."""
    clocks, processors = zip(*(measured(request)[1:] for request in requests), strict=True)
    print(
        f"{what:32} {np.median(clocks):7.3f} s, at most {max(clocks):7.3f}   "
        f"{np.median(processors):7.3f} processor s, at most {max(processors):7.3f}"
    )


def timed(what: str, function: Any) -> Any:
    """Runs a function and prints how long it took."""
    result, clock, processors = measured(function)
    print(f"{what:32} {clock:7.3f} s   {processors:7.3f} processor s")
    return result


def measured(function: Any) -> tuple[Any, float, float]:
    clock, processors = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - clock, time.process_time() - processors


if __name__ == "__main__":
    main()
