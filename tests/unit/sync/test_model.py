from __future__ import annotations

import json

from airflow_ext.sync.model import SchemaChange, SyncResult, SyncStatus, TableResult


def test_a_result_is_plain_json_and_comes_back_the_same() -> None:
    result = SyncResult(
        backend="dlt",
        run_id="1",
        started="2013-01-01T00:00:00+00:00",
        ended="2013-01-01T00:00:01+00:00",
        tables=(
            TableResult(name="a", rows=0, schema_changes=(SchemaChange(kind="table_added"),)),
            TableResult(name="b"),
        ),
        finished_pending=({"run_id": "0", "tables": {"a": 3}},),
    )
    value = json.loads(json.dumps(result.to_dict()))
    assert SyncResult.from_dict(value) == result
    assert value["tables"]["a"] == {"rows": 0, "schema_changes": [{"kind": "table_added"}]}
    assert value["tables"]["b"]["rows"] is None, "unknown is never 0"


def test_only_final_states_have_ended() -> None:
    assert [status.value for status in SyncStatus if status.ended] == ["succeeded", "failed", "cancelled"]
