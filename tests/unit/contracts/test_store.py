"""Verdicts in the state of assets, through Airflow's own accessors."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_ext.contracts import Reason, RunReference, Status, Verdict
from airflow_ext.contracts.head import HEAD_SIZE, Entry, Head
from airflow_ext.contracts.partition import PartitionRule
from airflow_ext.contracts.store import AssetVerdictStore, VerdictStore
from airflow_ext.exceptions import StoreUnavailableError
from airflow_ext.hooks.verdict_store import verdict_store
from tests.unit.contracts.asset_state import AssetStateServer

ASSET = "contract/orders/v1"
KEY = (ASSET, "2013-01-05")
RULE = PartitionRule()


@pytest.fixture
def server() -> Iterator[AssetStateServer]:
    with AssetStateServer().serving() as server:
        yield server


def verdict(partition: str = "2013-01-05", status: Status = Status.PASS, version: str = "1.2.0") -> Verdict:
    return Verdict("orders", version, partition, status)


async def ahead(store: VerdictStore) -> Head:
    """Return the one head, as a trigger reads it."""
    ((_, head),) = [item async for item in store.aheads({ASSET: None})]
    if isinstance(head, StoreUnavailableError):
        raise head
    return head


def test_a_verdict_comes_back_as_it_went_in(server: AssetStateServer) -> None:
    made = Verdict.of(
        reasons=[Reason("rows", ">= 1", "0"), Reason("extra", "none", "1", "warning")],
        skipped=["in words"],
        judged=3,
        contract="orders",
        version="1.2.0",
        partition="2013-01-05",
        rows=0,
        owner="shop",
        support="#shop",
        at="2013-01-06T00:00:00+00:00",
        run=RunReference("shop", "run", "publish", -1, 2, "http://x"),
    )
    published = verdict_store().publish(made, rule=RULE)
    assert published == made.numbered(1)
    assert verdict_store().verdict(ASSET, "2013-01-05") == published
    assert asyncio.run(verdict_store().averdicts([KEY])) == {KEY: published}


def test_the_number_grows_with_each_publication(server: AssetStateServer) -> None:
    store = verdict_store()
    numbers = [
        store.publish(verdict(day), rule=RULE).seq for day in ("2013-01-01", "2013-01-02", "2013-01-01")
    ]
    assert numbers == [1, 2, 3]
    head = asyncio.run(ahead(store))
    assert {key: entry.seq for key, entry in head.entries.items()} == {"2013-01-01": 3, "2013-01-02": 2}
    assert head.rule == RULE


def test_the_head_keeps_what_was_published_last(server: AssetStateServer) -> None:
    store = verdict_store()
    keys = [f"{year}" for year in range(1000, 1000 + HEAD_SIZE + 5)]
    for key in keys:
        store.publish(verdict(key), rule=PartitionRule("%Y"))
    head = store.head(ASSET)
    assert list(head.entries) == keys[5:]
    assert len(json.dumps(head.to_dict())) < 16_000
    assert store.verdict(ASSET, keys[0]) is not None
    assert store.publish(verdict(keys[0]), rule=PartitionRule("%Y")).seq == HEAD_SIZE + 6


def test_an_entry_that_another_publisher_overwrote_is_written_again(server: AssetStateServer) -> None:
    lost: list[str] = []

    class Racing:
        """State whose head is overwritten once by somebody who read it earlier."""

        def __init__(self, state: Any) -> None:
            self._state = state

        def __getattr__(self, name: str) -> Any:
            return getattr(self._state, name)

        def set(self, key: str, value: Any) -> None:
            self._state.set(key, value)
            if key == "head" and not lost:
                lost.append(key)
                self._state.set(key, Head().to_dict())

    from airflow.sdk.execution_time.context import AssetStateStoreAccessor

    store = AssetVerdictStore(lambda name: Racing(AssetStateStoreAccessor(name=name)))
    store.publish(verdict(), rule=RULE)
    assert lost
    assert "2013-01-05" in store.head(ASSET).entries


def test_each_major_version_has_an_asset_of_its_own(server: AssetStateServer) -> None:
    store = verdict_store()
    store.publish(verdict(version="1.2.0"), rule=RULE)
    store.publish(verdict(version="2.0.0"), rule=RULE)
    assert [store.head(f"contract/orders/v{major}").seq for major in (1, 2)] == [1, 1]


def test_a_store_that_does_not_answer_is_one_error(server: AssetStateServer) -> None:
    server.down = True
    store = verdict_store()
    for call in (
        lambda: store.publish(verdict(), rule=RULE),
        lambda: store.head(ASSET),
        lambda: store.verdict(ASSET, "x"),
        lambda: asyncio.run(ahead(store)),
        lambda: asyncio.run(store.averdicts([KEY])),
    ):
        with pytest.raises(StoreUnavailableError, match=ASSET):
            call()


def test_an_asset_that_no_dag_names_is_said_to_be_that(server: AssetStateServer) -> None:
    server.unknown_assets.add(ASSET)
    with pytest.raises(
        StoreUnavailableError, match=rf"The asset {ASSET} is not known.*partial\(outlets="
    ) as caught:
        verdict_store().publish(verdict(), rule=RULE)
    assert "cannot be reached" not in str(caught.value)


@pytest.mark.parametrize("value", [1, [], {"partitions": {"a": 1}}, {"status": "PASS"}], ids=repr)
def test_what_is_no_verdict_is_an_error(server: AssetStateServer, value: Any) -> None:
    server.values[ASSET, "head"] = server.values[ASSET, "p/x"] = json.dumps(value)
    with pytest.raises(StoreUnavailableError):
        verdict_store().head(ASSET)
    with pytest.raises(StoreUnavailableError):
        verdict_store().verdict(ASSET, "x")


def test_a_verdict_is_bounded() -> None:
    reasons = [Reason("r" * 9999, "e" * 9999, "a" * 9999) for _ in range(500)]
    made = Verdict.of(
        reasons=reasons, skipped=["s" * 9999] * 99, judged=500, contract="o", version="1.0", partition="p"
    )
    assert made.status is Status.BREACHED
    assert made.counts["failed"] == 500
    assert len(json.dumps(made.to_dict())) < 32_000
    assert Verdict.from_dict({**made.to_dict(), "of a later version": 1}) == made


def test_what_was_published_long_ago_is_deleted(server: AssetStateServer) -> None:
    from airflow.sdk.execution_time.context import AssetStateStoreAccessor

    store = AssetVerdictStore(lambda name: AssetStateStoreAccessor(name=name), kept=HEAD_SIZE + 2)
    keys = [f"{year}" for year in range(1000, 1000 + HEAD_SIZE + 5)]
    for key in keys:
        store.publish(verdict(key), rule=PartitionRule("%Y"))

    def kept() -> list[str]:
        return sorted(key.removeprefix("p/") for _, key in server.values if key.startswith("p/"))

    assert kept() == keys[3:]
    assert json.loads(server.values[ASSET, "old"]) == keys[3:5]
    store.publish(verdict(keys[3]), rule=PartitionRule("%Y"))  # back in the head, another leaves it
    assert json.loads(server.values[ASSET, "old"]) == keys[4:6]
    assert kept() == keys[3:]


def test_pruning_that_fails_is_no_failed_publication(server: AssetStateServer) -> None:
    server.values[ASSET, "old"] = json.dumps({"not": "a list"})
    store = verdict_store("")
    for year in range(1000, 1000 + HEAD_SIZE + 1):
        store.publish(verdict(f"{year}"), rule=PartitionRule("%Y"))
    assert json.loads(server.values[ASSET, "old"]) == ["1000"]
    server.refuses_deletes = True
    server.values[ASSET, "old"] = json.dumps([f"{year}" for year in range(1, 1001)])
    assert store.publish(verdict("3000"), rule=PartitionRule("%Y")).seq == HEAD_SIZE + 2


def test_what_an_older_version_wrote_is_read(server: AssetStateServer) -> None:
    """A head without promises, a verdict whose reasons have no columns, and nothing that came later."""
    server.values[ASSET, "head"] = json.dumps(
        {"format": "%Y-%m-%d", "timezone": "UTC", "partitions": {"2013-01-05": ["PASS", 7, "1.2.0"]}}
    )
    reason = {"rule": "rows", "expected": ">= 1", "actual": "0", "severity": "error"}
    old = {"contract": "orders", "version": "1.2.0", "partition": "2013-01-05", "status": "BREACHED"}
    server.values[ASSET, "p/2013-01-05"] = json.dumps({**old, "reasons": [reason], "run": {"dag_id": "shop"}})
    store = verdict_store()
    assert store.head(ASSET).seq == 7
    found = store.verdict(ASSET, "2013-01-05")
    assert found is not None
    assert (found.reasons, found.run.dag_id, found.quarantine) == (
        (Reason("rows", ">= 1", "0"),),
        "shop",
        None,
    )
    assert store.publish(verdict(), rule=RULE).seq == 8


def test_a_verdict_somebody_blew_up_is_cut_when_read(server: AssetStateServer) -> None:
    reason = {"rule": "r" * 100_000, "expected": "e", "actual": "a", "severity": "error"}
    huge = {**verdict().to_dict(), "reasons": [reason] * 100, "owner": "o" * 1_000_000}
    server.values[ASSET, "p/2013-01-05"] = json.dumps(huge)
    found = verdict_store().verdict(ASSET, "2013-01-05")
    assert found is not None
    assert len(json.dumps(found.to_dict())) < 32_000


def test_the_configuration_chooses_the_store(tmp_path: Path) -> None:
    place = tmp_path / "verdicts.db"
    os.environ["AIRFLOW_CONN_VERDICTS"] = json.dumps({"conn_type": "sqlite", "host": str(place)})
    os.environ["AIRFLOW__AIRFLOW_EXT__VERDICT_STORE_CONN_ID"] = "verdicts"
    assert isinstance(verdict_store(""), AssetVerdictStore)
    store = verdict_store()
    assert store.publish(verdict(), rule=RULE).seq == 1
    assert asyncio.run(verdict_store("verdicts").averdicts([KEY])) == {KEY: store.verdict(*KEY)}
    assert place.exists()
    os.environ["AIRFLOW_CONN_FILES"] = json.dumps({"conn_type": "fs"})
    with pytest.raises(ValueError, match="store_conn_id='files' is of type 'fs'"):
        verdict_store("files").head(ASSET)


@pytest.mark.parametrize("entry", [["PASS", "9", "1.0.0"], ["PASS", True, "1.0.0"], ["PASS", 9, 1], ["PASS"]])
def test_a_head_or_a_verdict_that_somebody_wrote_wrong_is_refused(entry: list[Any]) -> None:
    """Any task can write there; what it writes must not end the reading for others."""
    good = Head({"2013-01-05": Entry(Status.PASS, 9, "1.0.0")}, PartitionRule()).to_dict()
    assert Head.from_dict(good).seq == 9
    with pytest.raises(ValueError, match=r"."):
        Head.from_dict({**good, "partitions": {"2013-01-05": entry}})
    told = Verdict("orders", "1.0.0", "2013-01-05", Status.PASS).to_dict()
    for wrong in ({"seq": entry[1:2]}, {"version": entry}, {"partition": 3}):
        with pytest.raises(ValueError, match="not a verdict"):
            Verdict.from_dict({**told, **wrong})
