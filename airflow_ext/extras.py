"""Libraries that come with an extra of this package."""

from __future__ import annotations

import importlib.util

from airflow_ext.exceptions import MissingExtraError


def require(module: str, *, extra: str) -> None:
    """Make sure that a library of an extra is there, without importing it.

    :param module: A module of it; for ``a.b``, ``a`` is imported.
    :param extra: The extra that brings it.
    :raises MissingExtraError: If it is not installed; the message is the command that installs it.
    """
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise MissingExtraError(
            f"{module.partition('.')[0]} is not installed where this runs: pip install 'airflow-ext[{extra}]'",
            extra=extra,
        )
