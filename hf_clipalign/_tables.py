"""Tables for the terminal whose numbers are never cut."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_MOST_OF_A_NAME = 24
_NARROWEST = 40


class NumberTable:
    """Text columns that fold and number columns that never do.

    Columns that do not fit the width of the terminal follow in a further table below, beside the text again.

    Args:
        columns (`Sequence[str]`): Headings.
        rows (`Sequence[Sequence[str]]`): Cells as text.
        title (`str`, *optional*, defaults to `""`): Line above.
        caption (`str`, *optional*, defaults to `""`): Lines below; folded.
        texts (`Collection[int]`, *optional*, defaults to `(0,)`): Positions of the first columns, which hold text:
            aligned to the left and folded where space is short.
    """

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        title: str = "",
        caption: str = "",
        texts: Collection[int] = (0,),
    ) -> None:
        self.columns, self.rows, self.title, self.caption = list(columns), [list(row) for row in rows], title, caption
        self.texts = set(texts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = self._parts(options.max_width)
        for number, kept in enumerate(parts):
            if number == 0 and self.title:
                yield Text(self.title, style="table.title")
            yield self._table(kept, options.max_width)
        if self.caption:
            yield Text(self.caption, style="table.caption")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(_NARROWEST, options.max_width), options.max_width)

    def _table(self, kept: Sequence[int], width: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for index in kept:
            justify: JustifyMethod = "left" if index in self.texts else "right"
            heading = Text(self.columns[index])
            table.add_column(heading, justify=justify, overflow="fold", min_width=self._least(index, width))
        for row in self.rows:
            table.add_row(*(Text(row[index]) for index in kept))
        return table

    def _parts(self, width: int) -> list[list[int]]:
        """Which columns stand side by side; every part begins with the columns of text."""
        parts = [sorted(self.texts)]
        for index in (index for index in range(len(self.columns)) if index not in self.texts):
            together = [*parts[-1], index]
            if len(parts[-1]) > len(self.texts) and sum(self._least(one, width) + 2 for one in together) >= width:
                parts.append([*sorted(self.texts), index])
            else:
                parts[-1] = together
        return parts

    def _least(self, index: int, width: int) -> int:
        """The width that a column needs: numbers as they are, headings by their longest word, names folded."""
        cells = [row[index] for row in self.rows]
        longest = max(map(cell_len, cells), default=0)
        words = max(map(cell_len, self.columns[index].split()), default=0)
        return max(min(longest, _MOST_OF_A_NAME, width // 3) if index in self.texts else longest, words)
