"""What the commands print: notes, a sign of life during long work, tables, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["Progress", "note", "print_json", "print_table", "timed", "working"]

FILE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, where there is no screen to fit."""


class Progress:
    """Tells what is being done; silent where there is no terminal."""

    def __init__(self, status: Status | None) -> None:
        self._status = status

    def __call__(self, text: str) -> None:
        """Replace what is told."""
        if self._status is not None:
            self._status.update(text)


@contextmanager
def working(text: str) -> Iterator[Progress]:
    """Show that something is going on, on stderr, while the block runs."""
    if not sys.stderr.isatty():
        yield Progress(None)
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield Progress(status)


@contextmanager
def timed(what: str) -> Iterator[Callable[[str], None]]:
    """Show the stages of long work on stderr, each with the time that it has taken, while the block runs.

    What it gives is told each stage as it begins.
    """
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn()
    with Bar(*columns, console=Console(stderr=True)) as bar:

        def finish() -> None:
            for task in bar.tasks:
                bar.update(task.id, total=1, completed=1)

        def begin(stage: str) -> None:
            finish()
            bar.add_task(f"{what}: {stage}", total=None)

        yield begin
        finish()


def note(text: str) -> None:
    """Tell the user something beside the result, on stderr."""
    print(f"halfulp: note: {text}", file=sys.stderr)


def print_json(data: Any) -> None:
    """Print data for a program."""
    print(json.dumps(data, indent=2, allow_nan=False))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> None:
    """Print a table; `right` are the numbers of the columns that are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number in right else "left", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, markup=False, highlight=False)
    # A title of the table's own is wrapped at the table's width, however narrow that is.
    console.print(title, style="italic")
    console.print(table)
