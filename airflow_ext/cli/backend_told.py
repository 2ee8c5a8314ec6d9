"""What is wrong with the configured secrets backend, told in one line: Airflow makes it when it is first imported."""

from __future__ import annotations

import importlib
import traceback

REMEDY = "Correct it, and look again: without it Airflow cannot be imported, or finds no connection."


def backend_problem() -> str | None:
    """Import Airflow, and return why its secrets backend keeps it from that; ``None`` if it does not."""
    try:
        importlib.import_module("airflow.configuration")
    except Exception as error:  # noqa: BLE001  # a backend may raise what it likes
        return of_backend(error)
    return None


def of_backend(error: BaseException) -> str | None:
    """Return option and reason of an error that arose while Airflow made its secrets backend.

    :returns: Such as ``[secrets] backend_kwargs: ...``; ``None`` for any other error.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        known = frame.f_locals
        if frame.f_code.co_name == "_get_custom_secret_backend" and "kwargs_key" in known:
            is_made = bool(known.get("secrets_backend_cls"))
            option = known["kwargs_key"] if is_made else known["key"]
            reason = " ".join(str(error).split()) or type(error).__name__
            return f"[{known['section']}] {option}: {reason}"
    return None
