"""``python -m demo``: run the story on a real local Airflow, then keep its UI up until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from rich.console import Console

from airflow_ext.exceptions import InvalidError
from demo.story import Story, story_days
from demo.terminal import Teller
from demo.world import World

HOME = Path(__file__).parents[1] / ".demo"


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit status: 0 if every step came out as told."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument(
        "--once", action="store_true", help="end after the story instead of keeping the UI up"
    )
    parser.add_argument("--home", type=Path, default=HOME, help="folder for all state (default: .demo)")
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell without job control starts background commands with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    home: Path = arguments.home
    counter = home / "stories"
    good = False
    try:
        taken = int(counter.read_text()) if counter.exists() else 0
        good_day, bad_day = story_days(taken)
        teller = Teller(console)
        console.print("[bold]airflow-ext[/bold]: one story on a real local Airflow")
        with World(home, progress=lambda text: console.print(f" [dim]starting {text}[/dim]")) as world:
            console.print(f" Airflow answers after {teller.elapsed:.0f} s at {world.airflow.url}")
            counter.write_text(str(taken + 1))
            try:
                Story(world, teller, good_day=good_day, bad_day=bad_day).tell()
            except (AssertionError, TimeoutError) as error:
                console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
            good = teller.summary()
            airflow = world.airflow
            if not arguments.once:
                console.print(f"\nThe UI: [bold]{airflow.url}[/bold]  user [bold]{airflow.user}[/bold]")
                console.print(f"password [bold]{airflow.password}[/bold]   (Ctrl-C ends everything)")
                threading.Event().wait()
    except InvalidError as error:  # another demo runs, or the year is over
        console.print(str(error), style="red", markup=False)
    except KeyboardInterrupt:
        console.print("\nEnding ...")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
