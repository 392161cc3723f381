"""Tables of a report, as Markdown and as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is shown.
        value: What it is sorted by, and written to CSV; by default the text.
        best: Whether it is the best of its column.
    """

    text: str
    value: Any = None
    best: bool = False

    @property
    def key(self) -> Any:
        """What it is sorted by."""
        return self.text if self.value is None else self.value


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        name: Its name, as a file.
        title: Its title.
        header: The names of the columns.
        rows: Its cells.
        note: How it is to be read.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]] = field(default_factory=list)
    note: str = ''

    def markdown(self) -> str:
        """Return it in Markdown, numbers to the right."""
        marks = [
            '--:' if any(_is_number(row[i]) for row in self.rows) else '---'
            for i in range(len(self.header))
        ]
        lines = ['| ' + ' | '.join(self.header) + ' |']
        lines.append('| ' + ' | '.join(marks) + ' |')
        for row in self.rows:
            texts = [
                f'**{cell.text}**' if cell.best else cell.text for cell in row
            ]
            texts = [text.replace('|', r'\|') for text in texts]
            lines.append('| ' + ' | '.join(texts) + ' |')
        return '\n'.join(lines)

    def csv(self) -> str:
        """Return it as CSV, with numbers in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(self.header)
        writer.writerows([cell.key for cell in row] for row in self.rows)
        return text.getvalue()


def _is_number(cell: Cell) -> bool:
    return isinstance(cell.value, (int, float))
