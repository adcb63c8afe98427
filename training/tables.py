"""Tables that people and publishers write, read row by row with errors that name the line."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = ["Row", "read_rows"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table; what cannot be read is named with file and line.

    Attributes:
        path: of the table.
        line: its number, from 1.
        values: column -> what stands there, without blanks around it.
    """

    path: Path
    line: int
    values: dict[str, str]

    def error(self, told: str) -> ValueError:
        """What to raise for this line."""
        return ValueError(f"{self.path}, line {self.line}: {told}")

    def text(self, column: str) -> str:
        """What stands in a column.

        Raises:
            ValueError: nothing does.
        """
        if not self.values[column]:
            raise self.error(f"{column} is empty")
        return self.values[column]

    def optional(self, column: str) -> str | None:
        """What stands in a column; None where nothing does, or the table has no such column."""
        return self.values.get(column) or None

    def choice(self, column: str, names: Mapping[str, T]) -> T:
        """What one of some words stands for.

        Raises:
            ValueError: it is another word.
        """
        value = self.values[column]
        if value not in names:
            known = ", ".join(repr(name) for name in names)
            raise self.error(f"{column} must be one of {known}, not {value!r}")
        return names[value]

    def positive(self, column: str) -> float:
        """A number above zero.

        Raises:
            ValueError: it is none.
        """
        value = self.values[column]
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise self.error(f"{column} must be a positive number, not {value!r}")
        return number


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a table, whichever of `,`, `;` and tab parts its columns.

    Blanks around names and values, a byte order mark, nameless columns and empty lines, as
    spreadsheets leave them behind, are passed over.

    Args:
        path: of the table.
        columns: that it must have.

    Raises:
        ValueError: it lacks one of them, or rows, or is no CSV in UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        # Strict, so that a quote that never ends is an error and does not swallow the other rows.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        names = [name.strip() for name in next(reader, [])]
        lacking = [name for name in columns if name not in names]
        if lacking:
            found = ", ".join(filter(None, names)) or "none"
            raise ValueError(f"{path} lacks the columns {', '.join(lacking)}; it has {found}")
        empty = True
        for cells in reader:
            cells = [cell.strip() for cell in cells] + [""] * (len(names) - len(cells))
            if any(cells[len(names) :]):
                told = f"{len(cells)} values for {len(names)} columns"
                raise ValueError(
                    f"{path}, line {reader.line_num}: {told}; put quotes around a value that "
                    f"holds {delimiter!r}"
                )
            if any(cells):
                values = {n: cell for n, cell in zip(names, cells, strict=False) if n}
                yield Row(path, reader.line_num, values)
                empty = False
        if empty:
            raise ValueError(f"{path} has no rows")
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
