"""Runs through the dbt of another environment."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

import pytest

from airflow_ext.dbt.flags import DbtFlags
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from tests.unit.dbt.runs import EXTRA, run

DBT = Path(sys.executable).with_name("dbt")


def test_an_executable_tells_the_same_as_this_environment(shop: Path) -> None:
    (shop / "models" / "extra.yml").write_text(EXTRA)
    with (shop / "dbt_project.yml").open("a") as file:
        file.write('on-run-start: ["select 1"]\non-run-end: ["select no_such_column"]\n')
    told = []
    for executable in (None, DBT):
        Path(os.environ["SHOP_DUCKDB"]).unlink(missing_ok=True)
        done = run(shop, flags=DbtFlags(vars={"fail": "customers"}, threads=1), executable=executable)
        assert not done.end.success
        assert "Concurrency: 1 threads" in done.log
        nodes = [
            {k: v for k, v in node.items() if k not in ("seconds", "started", "ended")} for node in done.nodes
        ]
        # Times and temporary folders differ.
        lines = [re.sub(r"[0-9.]+s|/tmp/\S+|[0-9.]+ seconds", "#", line) for line in done.log.splitlines()]
        told.append((nodes, done.end.warnings, [line for line in lines if "partial pars" not in line]))
    assert told[0] == told[1]


def program(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "programs" / "dbt"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_program_that_tells_as_fusion_does_is_understood(shop: Path, tmp_path: Path) -> None:
    # No message and no adapter's response in NodeFinished, times with a zone, list items as PrintEvent.
    fusion = program(
        tmp_path,
        """
import json, pathlib, sys
target = pathlib.Path(sys.argv[sys.argv.index("--target-path") + 1])
assert sys.argv[1] == "build" and "json" in sys.argv
def event(name, level, msg, **data):
    print(json.dumps({"info": {"name": name, "level": level, "msg": msg}, "data": data}), flush=True)
def node(unique_id, status, **result):
    info = {"unique_id": unique_id, "node_status": status, "node_started_at": "2026-01-01T00:00:00.000000Z",
            "node_finished_at": "2026-01-01T00:00:01.000000Z", "node_relation": {"relation_name": "d.s.x"}}
    event("NodeStart", "debug", "", node_info=info)
    event("NodeFinished", "debug", "", node_info=info, run_result={"status": status, "execution_time": 1.0, **result})
print("dbt-fusion 2.0 preview")
event("Generic", "warn", "\\x1b[33mstatic analysis is off\\x1b[0m")
event("Generic", "info", "Loading")
node("model.shop.a", "success")
node("model.shop.b", "reused")
node("test.shop.t", "fail", num_failures=3)
node("model.shop.c", "skipped")
for line in ("[]", '"x"', "{}", '{"info": 1}'):
    print(line)
result = {"unique_id": "test.shop.t", "status": "fail", "execution_time": 1.0, "message": "Got 3 results", "failures": 3,
          "timing": [], "adapter_response": {}}
more = {"unique_id": "model.shop.late", "status": "error", "execution_time": 0.5, "message": "no such table",
        "adapter_response": {"bytes_processed": 7}}
(target / "run_results.json").write_text(json.dumps({"results": [result, more]}))
sys.exit(1)
""",
    )
    done = run(shop, executable=fusion)
    assert not done.end.success
    assert done.states() == {
        "a": "success",
        "b": "reused",
        "t": "fail",
        "c": "skipped",
        "late": "error",
    }
    times = {"seconds": 1.0, "started": "2026-01-01T00:00:00.000000Z", "ended": "2026-01-01T00:00:01.000000Z"}
    assert done.by_name["a"] == {"id": "model.shop.a", "status": "success", "relation": "d.s.x", **times}
    assert done.by_name["t"] == {
        "id": "test.shop.t",
        "status": "fail",
        "failures": 3,
        "message": "Got 3 results",
        **times,
    }
    assert done.by_name["late"]["bytes"] == 7
    assert done.end.warnings == ("static analysis is off",)
    assert done.log.splitlines() == [
        "dbt-fusion 2.0 preview",
        "static analysis is off",
        "Loading",
        "[]",
        '"x"',
        "{}",
        '{"info": 1}',
    ]


def test_what_only_looks_like_an_event_is_a_line_of_the_log(shop: Path, tmp_path: Path) -> None:
    garbled = [
        {"node_info": ["x"]},
        {"node_info": {"unique_id": "model.shop.a"}, "run_result": {"num_failures": "many"}},
        "text",
    ]
    text = """
import json
def event(data):
    print(json.dumps({"info": {"name": "NodeFinished", "level": "debug", "msg": ""}, "data": data}), flush=True)
"""
    good = {"node_info": {"unique_id": "model.shop.b", "node_status": "success"}}
    calls = "".join(f"event({data!r})\n" for data in [*garbled, good])
    done = run(shop, executable=program(tmp_path, text + calls))
    assert done.states() == {"b": "success"}
    assert len(done.log.splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            "import sys; print('no licence'); sys.exit(3)",
            "status 3 without a result.*no licence",
            id="breaks",
        ),
        pytest.param("import os; os.kill(os.getpid(), 9)", "status 137 without a result", id="killed"),
        pytest.param(
            """print('{"info": {"name": "E", "level": "error", "msg": "cannot parse"}}'); raise SystemExit(1)""",
            "did not come to an end: cannot parse",
            id="error",
        ),
    ],
)
def test_a_program_that_breaks_is_told_with_its_last_words(
    shop: Path, tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(DbtFailedError, match=f"(?s){said}"):
        run(shop, executable=program(tmp_path, text))


def test_a_program_that_cannot_be_started_is_told(shop: Path, tmp_path: Path) -> None:
    path = program(tmp_path, "")
    path.write_bytes(b"\x7fELF nonsense")
    with pytest.raises(DbtFailedError, match=r"(?s)status 126.*could not be started: Exec format error"):
        run(shop, executable=path)


def test_this_environments_python_path_is_not_given_to_another(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = program(tmp_path, "import os; print('PYTHONPATH' in os.environ, os.environ['SHOP_DUCKDB'])")
    assert run(shop, executable=path).log == f"False {os.environ['SHOP_DUCKDB']}"


@pytest.mark.parametrize("executable", ["/no/such/dbt", "no-such-dbt"])
def test_a_missing_executable_is_named(shop: Path, executable: str) -> None:
    with pytest.raises(InvalidProjectError, match=f"^executable='{executable}': there is no such program"):
        run(shop, executable=executable)
