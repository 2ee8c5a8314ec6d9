"""All waiters of two hundred contracts released at once, and by two triggerers of which one is killed."""

from __future__ import annotations

import json
import time

from benchmarks._contracts_stage import CONTRACTS, DAY, EACH, LATER, WAITERS, Stage, stage
from benchmarks.report import Report

TOGETHER, ORPHANED = 10, 5
"""Contracts published while two triggerers run, and after one of them was killed."""
BARE = "benchmarks._bare_trigger.BareTrigger"
LOAD_SECONDS = 100.0


def release_part(report: Report, *, quick: bool) -> None:
    """Add the bars about many releases at once.

    :param quick: Nothing is measured.
    """
    if quick:
        report.skip("release of all waiters at once in a real triggerer, beside bare triggers")
        return
    with stage(report) as made:
        made.idle()
        made.sql("CREATE INDEX bench_callback ON callback (trigger_id)")
        _release_indexed(made, _floor(made))
        _clear(made)
        made.sql("DROP INDEX bench_callback")
        _release(made, _floor(made))


def _floor(made: Stage) -> float:
    """Return the seconds in which the triggerer ends as many tasks whose triggers do nothing but sleep."""
    at = time.time() + LOAD_SECONDS
    made.clone("contract", WAITERS, [{"at": at}], classpath=BARE)
    made.wait_until_loaded()
    if time.time() > at:
        made.report.say("waiting: the bare triggers were not all loaded before their moment")
    missing = made.wait_for_ends(WAITERS)
    seconds = made.first_and_last(0, WAITERS)[1] - at
    made.report.say(f"waiting: bare triggers took {seconds:.1f} s, {missing} are missing")
    _clear(made)
    return seconds


def _clear(made: Stage) -> None:
    made.sql("DELETE FROM task_instance WHERE map_index >= 0")
    made.sql("TRUNCATE bench_ends")
    # Airflow searches all callbacks that are left for each end, and no dag-processor takes them here.
    made.sql("TRUNCATE callback CASCADE")


def _idle(made: Stage, begin: float, end: float) -> int:
    rows = made.sql("SELECT DISTINCT floor(extract(epoch FROM at))::bigint FROM bench_ends")
    busy = {int(second) for (second,) in rows}
    return sum(second not in busy for second in range(int(begin), int(end) + 1))


def _release(made: Stage, floor: float) -> None:
    made.start_triggerer(called="triggerer-2")
    kwargs = made.kwargs_of("contract")
    made.clone("contract", WAITERS, [made.for_contract(kwargs, number) for number in range(CONTRACTS)])
    made.wait_until_loaded()
    shares = sorted(count for (count,) in made.sql("SELECT count(*) FROM trigger GROUP BY triggerer_id"))
    made.publish_at_once(range(TOGETHER), DAY)
    made.wait_for_ends(TOGETHER * EACH)
    made.airflow.kill_component("triggerer-2")
    made.publish_at_once(range(TOGETHER, TOGETHER + ORPHANED), DAY)
    made.report.say(f"waiting: of two triggerers with {shares} triggers one was killed -9")
    first = (TOGETHER + ORPHANED) * EACH
    made.wait_for_ends(first)
    made.wait_until_loaded()
    time.sleep(10)
    published = made.publish_at_once(range(TOGETHER + ORPHANED, CONTRACTS), DAY)
    missing = made.wait_for_ends(WAITERS)
    begin, end = made.first_and_last(first, WAITERS)
    made.report.bar(
        f"release of all at once ({WAITERS - first:,} waiters), from publication to the last end",
        float("inf") if missing else end - published,
        "<=",
        60,
        unit="s",
        peers={
            "from publication to the first end": round(begin - published, 1),
            "from the first end to the last": round(end - begin, 1),
            "a second": round((WAITERS - first) / (end - begin)),
            "seconds in which none ended": _idle(made, begin, end),
            f"{WAITERS:,} triggers that only sleep, from their moment to the last end": round(floor, 1),
            "of those a second": round(WAITERS / floor),
        },
    )
    ends = made.sql("SELECT count(*) FROM bench_ends GROUP BY map_index")
    made.report.bar(
        "waiters not released exactly once, by two triggerers of which one was killed -9",
        WAITERS - sum(1 for (count,) in ends if count == 1),
        "==",
        0,
        unit="waiters",
        peers={"triggers of each": shares},
    )


def _release_indexed(made: Stage, floor: float) -> None:
    """The same with an index that Airflow's table lacks, by which an end finds that it has no callback."""
    kwargs = json.loads(json.dumps(made.kwargs_of("contract")).replace(DAY, LATER))
    made.clone("contract", WAITERS, [made.for_contract(kwargs, number) for number in range(CONTRACTS)])
    made.wait_until_loaded()
    time.sleep(10)
    published = made.publish_at_once(range(CONTRACTS), LATER)
    missing = made.wait_for_ends(WAITERS)
    begin, end = made.first_and_last(0, WAITERS)
    made.report.bar(
        f"release of all at once ({WAITERS:,} waiters) with an index on callback.trigger_id",
        float("inf") if missing else end - published,
        "<=",
        60,
        unit="s",
        peers={
            "from publication to the first end": round(begin - published, 1),
            "seconds in which none ended": _idle(made, begin, end),
            f"{WAITERS:,} triggers that only sleep, from their moment to the last end": round(floor, 1),
        },
    )
