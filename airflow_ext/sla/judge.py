"""What becomes of one occurrence that is not done: the words, and the decision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

CAUSES = {
    "late": "it runs, but not fast enough, or it ended too late",
    "queued": "it was created and has not started",
    "failed": "it failed",
    "never_started": "no run was created",
    "paused": "the DAG is paused",
    "import_error": "the DAG file does not import",
    "dag_gone": "the DAG is not there any more",
    "slow": "it runs, and is likely to need longer than what is left",
    "no_time": "it has not started, and usually takes longer than what is left",
    "fed_late": "what feeds it is not done, and both usually take longer than what is left",
    "scheduler_dead": "no scheduler is alive",
    "no_event": "the asset was not updated",
    "breached": "it was published, and does not hold what its contract promises",
    "stale": "the last update is too old",
    "too_few": "it was done too rarely",
    "exception": "an exception of the policy",
    "maintenance": "a maintenance window",
    "excused": "somebody excused it",
    "run_deleted": "the run was deleted",
    "withdrawn": "the policy was withdrawn",
    "": "",
}
"""Every cause an occurrence can have, with its meaning."""

_SOON, _SELDOM = timedelta(seconds=30), timedelta(minutes=15)
_REPAIR = timedelta(seconds=15)
_GIVE_UP = timedelta(days=7)


@dataclass(frozen=True)
class Fact:
    """The run, task or event that says most about an occurrence.

    :param state: ``success``, ``running``, ``queued``, ``failed``; empty if there is none.
    """

    state: str = ""
    run_id: str | None = None
    run_type: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    logical_date: datetime | None = None


@dataclass(frozen=True)
class DagState:
    """How a DAG and its scheduler are, to say why there is no run."""

    there: bool = True
    paused: bool = False
    import_error: bool = False
    scheduler_alive: bool = True


@dataclass(frozen=True)
class Decision:
    """What an occurrence becomes.

    :param state: A state of the ledger.
    :param tell: Kind of the incident to open, empty for none.
    :param next_check: When to look again, ``None`` if that is the end.
    """

    state: str
    cause: str
    tell: str
    next_check: datetime | None


def decide(
    *,
    state: str,
    tell_at: datetime,
    bound: bool,
    on_paused: str,
    on_failure: str,
    paused_acknowledged: bool,
    about_data: bool,
    fact: Fact,
    dag: DagState,
    now: datetime,
) -> Decision:
    """Decide on an occurrence for which nothing has ended well yet.

    A failure before it is due makes it ``at_risk``, and is told then, not a second time when it is due.

    :param state: Its state so far.
    :param bound: Whether it is about one run.
    :param paused_acknowledged: Whether somebody has acknowledged the pause for the occurrence before.
    :param about_data: Whether it is about an asset.
    """
    cause = cause_of(fact, dag, about_data=about_data)
    if bound and not fact.state:
        return Decision("void", "run_deleted", "", None)
    if now < tell_at:
        if fact.state == "failed" and on_failure == "tell":
            tell = "failed_before_due" if state == "expected" else ""
            return Decision("at_risk", "failed", tell, min(now + _REPAIR, tell_at))
        return Decision(state, "failed" if state == "at_risk" else "", "", _before_due(state, now, tell_at))
    if state == "missed":
        return Decision("missed", cause, "", _after_miss(now, tell_at))
    if cause == "paused" and (
        on_paused == "excuse" or (on_paused == "excuse_after_ack" and paused_acknowledged)
    ):
        return Decision("excused", "paused", "", None)
    return Decision("missed", cause, "missed", _after_miss(now, tell_at))


def cause_of(fact: Fact, dag: DagState, *, about_data: bool) -> str:
    """Return why it is not done, the deepest reason first."""
    if fact.state == "failed":
        return "failed"
    if not fact.state and dag.import_error:
        return "import_error"
    if not fact.state and not dag.there:
        return "dag_gone"
    if dag.paused and fact.state != "running":
        return "paused"
    if not dag.scheduler_alive:
        return "scheduler_dead"
    if not fact.state:
        return "no_event" if about_data else "never_started"
    return "queued" if fact.state == "queued" else "late"


def _before_due(state: str, now: datetime, tell_at: datetime) -> datetime:
    return min(now + _REPAIR, tell_at) if state == "at_risk" else tell_at


def _after_miss(now: datetime, tell_at: datetime) -> datetime | None:
    """Look for the recovery often at first, then seldom, then no more."""
    late = now - tell_at
    return None if late > _GIVE_UP else now + min(max(late / 8, _SOON), _SELDOM)
