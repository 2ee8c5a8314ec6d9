"""How many rows a destination may refuse."""

from __future__ import annotations

from airflow_ext.exceptions import SyncFailedError
from airflow_ext.sync.model import SyncResult


def check_limits(most: int | None, ratio: float | None) -> None:
    """Check the two arguments.

    :raises ValueError: If one is out of range.
    """
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
        raise ValueError(f"max_failed_rows={most!r}: give a number of rows, 0 or more")
    if ratio is not None and (isinstance(ratio, bool) or not 0 <= ratio <= 1):
        raise ValueError(f"max_failed_ratio={ratio!r}: give a share from 0 to 1, such as 0.01")


def check_refused(result: SyncResult, most: int | None, ratio: float | None) -> None:
    """Hold the rows that the destination refused to the limits; unknown ones are none.

    :raises SyncFailedError: If there are more.
    """
    failed = sum(table.failed or 0 for table in result.tables)
    if not failed:
        return
    rows = failed + sum(table.rows or 0 for table in result.tables)
    share = failed / rows
    if most is None and ratio is None:
        most = 0
    if (most is not None and failed > most) or (ratio is not None and share > ratio):
        allowed = [
            *([f"max_failed_rows={most}"] if most is not None else []),
            *([f"max_failed_ratio={ratio:g}"] if ratio is not None else []),
        ]
        raise SyncFailedError(
            f"the destination refused {failed} of {rows} rows ({share:.2%}) of run {result.run_id}; allowed is "
            f"{' and '.join(allowed)}. The others have arrived.{f' See {result.link}' if result.link else ''}",
            status="refused",
            run_id=result.run_id,
            reason=f"{failed} rows refused",
            link=result.link or "",
        )
