"""What was registered with Airflow's maskers, so that nothing is registered twice or forgotten after a fork."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

# By object and process: a forked child may have been given a fresh masker.
_masked: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def mask(thing: Any, texts: Callable[[], Iterable[str]]) -> None:
    """Register the texts of a document or of credentials before anybody can print them."""
    if _masked.get(thing) == os.getpid():
        return
    from airflow.sdk.log import mask_secret

    found = list(texts())
    for text in found:
        mask_secret(text)
    _note(thing, found)


async def amask(thing: Any, texts: Callable[[], Iterable[str]]) -> None:
    """Do the same where an event loop speaks to the supervisor."""
    if _masked.get(thing) == os.getpid():
        return
    from airflow.sdk.log import amask_secret

    found = list(texts())
    for text in found:
        await amask_secret(text)
    _note(thing, found)


def _note(thing: Any, texts: list[str]) -> None:
    # Servers have a second masker beside that of tasks, for their own logs.
    server = sys.modules.get("airflow._shared.secrets_masker")
    if server is not None:
        for text in texts:
            server.mask_secret(text)
    _masked[thing] = os.getpid()
