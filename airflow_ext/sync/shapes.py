"""Reading JSON that others write: what has another shape than documented is no answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_ext.exceptions import SyncUnavailableError


def object_of(value: Any, *, service: str) -> Mapping[str, Any]:
    """Return an object.

    :raises SyncUnavailableError: If it is none.
    """
    if not isinstance(value, Mapping):
        raise SyncUnavailableError(f"{service} answered JSON that is no object", service=service)
    return value


def objects_of(value: Any, *, service: str) -> list[Mapping[str, Any]]:
    """Return the objects of a list; null is an empty one.

    :raises SyncUnavailableError: If it is no list of objects.
    """
    found = [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise SyncUnavailableError(f"{service} answered JSON without the list it documents", service=service)
    return found


def names_of(value: Any) -> list[str]:
    """Return the texts of a list, none where it is something else."""
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
