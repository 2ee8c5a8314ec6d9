"""How a task waits for its runs, and what it knows of them between its tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_ext.sync.backend import RunHandle
from airflow_ext.sync.model import SyncResult
from airflow_ext.sync.watch import Failing, Limits

if TYPE_CHECKING:
    from airflow.sdk import Context

MEMORY_KEY = "airflow_ext_sync_run"


@dataclass(frozen=True, kw_only=True)
class SyncWait:
    """How to wait for a vendor's run. All times are in seconds.

    :param poll_interval: Time between two questions to the vendor. All tasks of a connection that wait in one
        triggerer with the same interval ask together.
    :param timeout: Time in all, from the start of each try; then the run is cancelled and the task fails. ``None``
        takes the task's ``execution_timeout``, and without one waits for ever.
    :param start_timeout: Time within which the run must have begun.
    :param stuck_after: Time a running run may show no change; ``None`` for ever. Fivetran shows no progress, so
        there it limits the whole run.
    :param max_reschedules: How often the vendor may put the run off.
    :param outage: How long the vendor may be unreachable, before, while or after the run, beyond what it asks to wait
        itself (``Retry-After``).
    :raises ValueError: If a number is not above 0.
    """

    poll_interval: float = 15.0
    timeout: float | None = None
    start_timeout: float = 900.0
    stuck_after: float | None = None
    max_reschedules: int = 10
    outage: float = 600.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and value > 0):
                raise ValueError(f"{name}={value!r}: give a number above 0")

    def limits(self, now: float, *, most: float | None) -> Limits:
        """Return the limits of a run that is asked for now.

        :param most: Time in all where ``timeout`` does not say.
        """
        seconds = most if self.timeout is None else self.timeout
        return Limits(
            deadline=None if seconds is None else now + seconds,
            start_by=now + self.start_timeout,
            stuck_after=self.stuck_after,
            max_reschedules=self.max_reschedules,
            outage=self.outage,
        )


class Memory:
    """What a task knows of its runs, in Airflow's task state: it survives retries and lost workers.

    :param context: The running task's context.
    """

    def __init__(self, context: Context) -> None:
        self._store: Any = context.get("task_state_store")
        self._try = context["ti"].try_number
        stored = self._store.get(MEMORY_KEY) if self._store is not None else None
        kept: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
        self.handle: RunHandle | None = kept.get("handle")
        self.limits: Mapping[str, Any] | None = kept.get("limits")
        self.watch: Mapping[str, Any] | None = kept.get("watch")
        self.results: list[dict[str, Any]] = list(kept.get("results") or ())
        self.restarted = False
        self.earlier_try = kept.get("try") != self._try
        self.started: bool = bool(kept.get("started")) and not self.earlier_try
        self.ended: Any = None if self.earlier_try else kept.get("ended")
        self.failing: Failing | None = None
        if kept.get("failing") and not self.earlier_try:
            self.failing = Failing.from_dict(kept["failing"])

    def keep(self, handle: RunHandle, limits: Limits, *, started: bool) -> None:
        """Remember a run.

        :param started: The vendor has taken it; else it may know nothing of it.
        """
        self.handle, self.limits, self.watch = handle, limits.to_dict(), None
        self.started, self.earlier_try = started, False
        self._write()

    def put_off(self, failing: Failing, limits: Limits, ended: Any) -> None:
        """Remember that the vendor does not answer.

        :param ended: How the run has ended, as plain JSON; ``None`` before its start.
        """
        self.failing, self.limits, self.ended, self.earlier_try = failing, limits.to_dict(), ended, False
        self._write()

    def note(self, watch: Mapping[str, Any]) -> None:
        """Remember what is known of the run, for the next look at it."""
        if watch != self.watch:
            self.watch = watch
            self._write()

    def finish(self, result: SyncResult) -> None:
        """Remember a result; the run is over."""
        self.results.append(result.to_dict())
        self.forget()

    def forget(self) -> None:
        """Forget the run, not the results of those before it."""
        self.handle = self.limits = self.watch = self.ended = None
        self.started = False
        self._write()

    def clear(self) -> None:
        """Forget everything."""
        if self._store is not None:
            self._store.delete(MEMORY_KEY)

    def _write(self) -> None:
        if self._store is not None:
            value = {
                "handle": self.handle,
                "limits": self.limits,
                "watch": self.watch,
                "try": self._try,
                "results": self.results,
                "started": self.started,
                "ended": self.ended,
                "failing": None if self.failing is None else asdict(self.failing),
            }
            self._store.set(MEMORY_KEY, value)
