"""Ten thousand tasks that wait for two hundred contracts in one triggerer: what they cost, how fast they go on."""

from __future__ import annotations

import random
import time
from typing import Any

from benchmarks._contracts_stage import CONTRACTS, DAY, EACH, POLL, WAITERS, WORK, Stage, stage
from benchmarks._contracts_waiting_quick import quick_part
from benchmarks.report import Report

PEERS = 1_000
ALONE, PUSHING, ORPHANED = 6, 6, 5
"""Contracts published one by one, those whose waiters push an XCom too, and those while no triggerer runs."""
READ_SECONDS = 120.0
PEER_SECONDS = 30.0


def waiting_part(report: Report, *, quick: bool) -> None:
    """Add the bars about waiting.

    :param quick: Only the reader of a shared database, within one process.
    """
    if quick:
        quick_part(WORK, report)
        report.skip("waiting in a real triggerer, beside ExternalTaskSensor")
        return
    with stage(report) as made:
        _Waiting(made).run()


class _Waiting:
    def __init__(self, made: Stage) -> None:
        self.stage = made
        self.report = made.report

    def run(self) -> None:
        idle = self.stage.idle()
        kwargs = self.stage.kwargs_of("contract")
        variants = [self.stage.for_contract(kwargs, number) for number in range(CONTRACTS)]
        for number in range(ALONE, ALONE + PUSHING):
            variants[number]["push_xcom"] = True
        self.stage.clone("contract", WAITERS, variants)
        self.stage.wait_until_loaded()
        self.cost(idle)
        self.alone()
        self.report.bar(
            "waiters forgotten over publications before, while and after a triggerer was killed -9",
            self.killed(),
            "==",
            0,
            unit="waiters",
        )

    def cost(self, idle: float) -> None:
        time.sleep(2 * POLL)  # what was loaded last reads everything once more
        memory = self.stage.memory() - idle
        reads = self.stage.per_minute(self.stage.store_reads, READ_SECONDS)
        self.report.bar(
            f"store reads a minute of {WAITERS:,} waiters on {CONTRACTS} contracts, poll {POLL:g} s",
            reads,
            "<=",
            500,
            unit="reads/min",
            peers=self.peers(),
        )
        self.report.bar(
            f"memory of the triggerer with {WAITERS:,} waiters, over idle",
            memory,
            "<=",
            400,
            unit="MB",
            peers={"idle_mb": round(idle)},
        )

    def peers(self) -> dict[str, Any]:
        """Add waiting ExternalTaskSensors and return what they ask a minute, beside ours."""
        look = self.stage.commits
        ours = self.stage.per_minute(look, PEER_SECONDS)
        self.stage.clone("external_task", PEERS, [self.stage.kwargs_of("external_task")])
        self.stage.wait_until_loaded()
        time.sleep(5)
        both = self.stage.per_minute(look, PEER_SECONDS)
        self.stage.sql("DELETE FROM task_instance WHERE task_id = 'external_task' AND map_index >= 0")
        self.stage.sql("DELETE FROM trigger WHERE classpath LIKE '%WorkflowTrigger'")
        return {
            f"ExternalTaskSensor, {PEERS:,} waiters: transactions a minute more": round(both - ours),
            f"ExternalTaskSensor, {WAITERS:,} waiters, by that": round((both - ours) * WAITERS / PEERS),
            "transactions a minute of the whole triggerer with ours": round(ours),
        }

    def alone(self) -> None:
        """Publish some contracts, one after the other, at moments that have nothing to do with the reader's."""
        rng = random.Random(7)  # noqa: S311  # moments of a measurement
        published = {}
        for number in range(ALONE + PUSHING):
            time.sleep(rng.uniform(1, POLL))
            published[number] = self.stage.publish(number)
            self.stage.wait_for_ends((number + 1) * EACH)
        self.p95({n: at for n, at in published.items() if n < ALONE}, "waiters")
        self.p95({n: at for n, at in published.items() if n >= ALONE}, "waiters, who push an XCom,")

    def p95(self, published: dict[int, float], who: str) -> None:
        seconds = sorted(end - at for number, at in published.items() for end in self.stage.ends(number))
        seconds += [float("inf")] * (len(published) * EACH - len(seconds))
        self.report.bar(
            f"release of one contract's {EACH} {who} after its publication, p95",
            seconds[int(len(seconds) * 0.95)],
            "<=",
            POLL + 2,
            unit="s",
            peers={"median": round(seconds[len(seconds) // 2], 1), "max": round(seconds[-1], 1)},
        )

    def killed(self) -> int:
        """Publish while no triggerer runs, start one, and return how many waiters it forgot."""
        first = ALONE + PUSHING
        self.stage.airflow.kill_component("triggerer")
        for number in range(first, first + ORPHANED):
            self.stage.publish(number)
        self.stage.start_triggerer()
        self.report.say("waiting: the triggerer was killed -9 and starts again")
        missing = self.stage.wait_for_ends((first + ORPHANED) * EACH)
        self.stage.wait_until_loaded()
        self.stage.publish_at_once(range(first + ORPHANED, first + 2 * ORPHANED), DAY)
        return missing + self.stage.wait_for_ends((first + 2 * ORPHANED) * EACH)
