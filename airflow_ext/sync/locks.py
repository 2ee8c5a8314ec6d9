"""One run of a sync at a time on one machine."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Tell = Callable[[dict[str, Any]], None]
"""Takes the events of a run, such as ``{"event": "phase", "phase": "load"}``."""


@contextmanager
def only_one(path: Path, *, tell: Tell) -> Iterator[None]:
    """Hold a sync's lock file: two runs of one task at once would mix what they load.

    :param path: The file.
    :param tell: Told when another run holds it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell({"event": "log", "level": "info", "text": "waiting for another run of this task to end"})
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
