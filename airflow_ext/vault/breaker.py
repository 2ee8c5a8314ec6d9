"""A circuit breaker: after some failures in a row nobody asks for a while."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from airflow_ext.vault.settings import BreakerPolicy


class Breaker:
    """Count failures in a row; refuse calls while open; then let one call try.

    :param clock: Seconds that never go back.
    """

    def __init__(self, policy: BreakerPolicy, clock: Callable[[], float]) -> None:
        self._policy, self._clock = policy, clock
        self._failures = 0
        self._open_until: float | None = None
        self.why = ""
        self.restore_lock()

    def restore_lock(self) -> None:
        """Replace the lock, which another thread may have held when the process forked."""
        self._lock = threading.Lock()

    def allow(self) -> bool:
        """Tell if a call may be made now; a call that was allowed must report how it went."""
        with self._lock:
            if self._open_until is None:
                return True
            if self._clock() < self._open_until:
                return False
            self._open_until = self._clock() + self._policy.seconds  # others wait for this one call
            return True

    @property
    def is_open(self) -> bool:
        """Whether calls are refused now."""
        with self._lock:
            return self._open_until is not None and self._clock() < self._open_until

    @property
    def left(self) -> int:
        """Whole seconds until a call is allowed again, 0 when one is now."""
        with self._lock:
            return max(0, math.ceil(self._open_until - self._clock())) if self._open_until is not None else 0

    def succeeded(self) -> None:
        """Report that Vault answered."""
        with self._lock:
            self._failures, self._open_until = 0, None

    def failed(self, why: str = "", *, wait: float | None = None) -> None:
        """Report that Vault did not answer.

        :param why: Kept as :attr:`why`, for those who may not ask meanwhile.
        :param wait: Seconds Vault asked us to stay away, which opens the breaker at once.
        """
        with self._lock:
            self._failures += 1
            self.why = why
            if wait is not None:
                self._open_until = self._clock() + wait
            elif self._failures >= self._policy.failures:
                self._open_until = self._clock() + self._policy.seconds
