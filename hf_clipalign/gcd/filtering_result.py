"""What spectral filtering found: the kept concepts, as a table, a file and an image."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_clipalign._errors import ClipAlignError
from hf_clipalign._io.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_COLOUR, _KEPT_COLOUR = "#8d99ae", "#2e7d4f"


@dataclass(frozen=True)
class SpectralFilterResult:
    """The concepts of a dictionary by how much of the images' differences they explain.

    Attributes:
        concept_names (`list[str]`): all C names, as they were given.
        order (`NDArray[int64] [C]`): indices of all concepts, the most important first.
        importance (`NDArray[float64] [C]`): of each concept, in the order of `concept_names`.
        n_components (`int`): how many components carry `beta_e` of the variance.
        n_retained (`int`): how many concepts carry `beta_c` of the importance.
        eigenvalues (`NDArray[float64] [n_components]`): of the kept components, descending.
        components (`NDArray[float32] [m, C]`): the first eigenvectors of the covariance, unit rows; the entry of the
            largest absolute value is positive.
        total_variance (`float`): sum of all eigenvalues.
        n_images (`int`): N.
        settings (`dict`): temperature, thresholds and whether the softmax was taken.

    Example:
        ```python
        >>> from hf_clipalign.gcd import spectral_filter
        >>> result = spectral_filter(embeds, torch.eye(128)[:4], ["cat", "dog", "owl", "fox"])
        >>> sorted(result.order.tolist()), result.importance.shape, result.n_images
        ([0, 1, 2, 3], (4,), 24)
        ```
    """

    concept_names: list[str] = field(repr=False)
    order: NDArray[np.int64] = field(repr=False)
    importance: NDArray[np.float64] = field(repr=False)
    n_components: int
    n_retained: int
    eigenvalues: NDArray[np.float64] = field(repr=False)
    components: NDArray[np.float32] = field(repr=False)
    total_variance: float
    n_images: int
    settings: dict[str, Any]

    @property
    def retained(self) -> NDArray[np.int64]:
        """Indices of the kept concepts, the most important first: `text_features[result.retained]`."""
        return self.order[: self.n_retained]

    @property
    def concepts(self) -> list[str]:
        """Names of the kept concepts, the most important first."""
        return [self.concept_names[index] for index in self.retained]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Importance of the kept concepts as a share of the importance of all, the most important first."""
        return self.importance[self.retained] / self.importance.sum()

    def component_concepts(self, k: int = 5) -> list[list[str]]:
        """The k concepts that weigh most in each of the leading components, by absolute weight."""
        strongest = np.argsort(-np.abs(self.components), axis=1, kind="stable")[:, :k]
        return [[self.concept_names[index] for index in row] for row in strongest]

    def table(self, n: int = 20) -> Table:
        """The first n kept concepts, for the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=f"{self.n_retained} of {len(self.concept_names):,} concepts tell {self.n_images:,} images apart",
            caption=f"components that carry {100 * self.settings['beta_e']:g} % of the variance: {self.n_components}",
        )
        for name in ("", "concept", "importance, %", "together, %"):
            table.add_column(name, justify="left" if name == "concept" else "right")
        together = np.cumsum(self.shares)
        for rank, name in enumerate(self.concepts[:n]):
            table.add_row(str(rank + 1), Text(name), f"{100 * self.shares[rank]:.2f}", f"{100 * together[rank]:.1f}")
        return table

    def component_table(self, n: int = 8, k: int = 5) -> Table:
        """The first n components with their share of the variance and their k strongest concepts, for the terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Directions in which the images differ most")
        table.add_column("", justify="right")
        table.add_column("variance, %", justify="right")
        table.add_column("strongest concepts")
        shares = self.eigenvalues / self.total_variance
        for place, names in enumerate(self.component_concepts(k)[:n]):
            table.add_row(str(place + 1), f"{100 * shares[place]:.1f}", Text(", ".join(names)))
        return table

    def plot(self, n: int = 25) -> Figure:
        """An image: the n most important concepts, and how many components carry how much of the variance."""
        from matplotlib.figure import Figure

        shown = min(n, self.n_retained)
        figure = Figure(figsize=(10.0, 1.6 + 0.2 * max(shown, 10)), layout="constrained")
        bars, curve = figure.subplots(1, 2)
        bars.barh(range(shown), 100 * self.shares[:shown], color=_KEPT_COLOUR)
        bars.set_yticks(range(shown), self.concepts[:shown], fontsize=8, parse_math=False)
        bars.invert_yaxis()
        bars.set_xlabel("importance, %")
        bars.set_title(f"{shown} of {self.n_retained} kept concepts", fontsize=10)
        carried = 100 * np.cumsum(self.eigenvalues) / self.total_variance
        curve.plot(range(1, len(carried) + 1), carried, color=_COLOUR, marker="." if len(carried) < 50 else None)
        curve.axhline(100 * self.settings["beta_e"], color="#222222", linestyle="--", linewidth=1)
        curve.set_ylim(0, 102)
        curve.set_xlabel("components")
        curve.set_ylabel("variance carried, %")
        curve.set_title(f"{self.n_components} components are kept", fontsize=10)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """Everything but the eigenvectors, for JSON: the kept concepts with their importance and place."""
        return {
            "n_images": self.n_images,
            "n_concepts": len(self.concept_names),
            **self.settings,
            "n_components": self.n_components,
            "n_retained": self.n_retained,
            "total_variance": self.total_variance,
            "eigenvalues": self.eigenvalues.tolist(),
            "component_concepts": self.component_concepts(),
            "concepts": self._rows(),
        }

    def save(self, path: str | Path) -> Path:
        """Writes `.json` (all of `to_dict`), `.csv` (the kept concepts; `load_dictionary` reads it), or an image.

        Raises:
            `ClipAlignError`: another ending, or the file cannot be written.
        """
        path = Path(path)
        writers = {".json": self._write_json, ".csv": self._write_csv}
        writers |= dict.fromkeys((".png", ".svg", ".pdf"), self._write_image)
        if path.suffix not in writers:
            raise ClipAlignError(f"cannot write {path.name!r}: the ending must be one of {', '.join(writers)}.")
        with atomic_file(path) as staging:
            writers[path.suffix](staging)
        return path

    def _rows(self) -> list[dict[str, Any]]:
        kept = zip(self.concepts, self.retained, self.importance[self.retained], self.shares, strict=True)
        return [
            {"name": name, "index": int(index), "importance": float(importance), "share": float(share)}
            for name, index, importance, share in kept
        ]

    def _write_json(self, file: Path) -> None:
        file.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _write_csv(self, file: Path) -> None:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, ["name", "index", "importance", "share"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows())

    def _write_image(self, file: Path) -> None:
        self.plot().savefig(file, dpi=130)
