"""How the story is told: one line per step while it happens, one table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.box import Box
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_BAR = Box("    \n│   \n    \n│   \n    \n    \n│   \n    \n")
"""A box that is only its left side."""


@dataclass
class Step:
    """One step of the story.

    :param number: Place in the story.
    :param title: What should happen.
    :param note: What did happen, for the reader.
    :param seconds: How long it took.
    :param ok: Whether it came out as told.
    """

    number: int
    title: str
    note: str = ""
    seconds: float = 0.0
    ok: bool = False


class Teller:
    """Prints the story and remembers its steps.

    :param console: Where to; without a terminal it prints whole lines only.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.steps: list[Step] = []
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._started

    def chapter(self, text: str) -> None:
        """Print a heading."""
        self.console.print()
        self.console.print(f"[bold]{text}[/bold]")

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Tell one step; an exception inside marks it as not come out as told and goes on rising."""
        step = Step(number=len(self.steps) + 1, title=title)
        self.steps.append(step)
        started = time.monotonic()
        try:
            with self.console.status(f"{title} …"):
                yield step
            step.ok = True
        finally:
            step.seconds = time.monotonic() - started
            mark = "[green]✔[/green]" if step.ok else "[red]✘[/red]"
            note = f"  [dim]{step.note}[/dim]" if step.note else ""
            self.console.print(f" {mark} {title} [cyan]{step.seconds:.1f} s[/cyan]{note}", highlight=False)

    def quote(self, text: str, *, title: str) -> None:
        """Show words as a person of the story reads them."""
        self.console.print(f"   {title}", style="dim")
        quoted = Padding(Text(text.strip()), (0, 0, 0, 2))
        self.console.print(Padding(Panel(quoted, box=_BAR, padding=0), (0, 0, 0, 3)))

    def summary(self) -> bool:
        """Print the table; returns whether every step came out as told."""
        table = Table(
            title="The story", title_style="bold", title_justify="left", show_edge=False, pad_edge=False
        )
        table.add_column("#", justify="right", style="dim")
        table.add_column("step", overflow="fold")
        table.add_column("what happened", overflow="fold")
        table.add_column("time", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for step in self.steps:
            mark = "[green]as told[/green]" if step.ok else "[red]NOT as told[/red]"
            table.add_row(str(step.number), step.title, step.note, f"{step.seconds:.1f} s", mark)
        self.console.print()
        self.console.print(table)
        good = bool(self.steps) and all(step.ok for step in self.steps)
        self.console.print(
            f"{sum(step.ok for step in self.steps)} of {len(self.steps)} steps came out as told, "
            f"{self.elapsed:.0f} s in all."
        )
        return good
