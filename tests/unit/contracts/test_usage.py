"""Who uses a contract, read from DAG files without running them."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ext.contracts.impact import Reach, reached
from airflow_ext.contracts.usage import Use, find_in_folder, find_in_text
from airflow_ext.exceptions import InvalidError

DAGS = """
import a_library_nobody_has
raise SystemExit("this file must not run")

ORDERS = "orders>=1,<2"
orders = Contract.from_file(Path(__file__).parent / "contracts" / "orders.odcs.yaml")

with DAG("revenue", schedule=ContractSchedule("clicks>=1,<2")):
    ContractSensor(task_id="ok", contract=ORDERS, uses=["amount", "id"])
    ContractSensor.partial(task_id="mapped", contract=f"{ORDERS}").expand(partition=days)
    ContractPublishOperator(task_id="publish", contract=orders)

@dag(schedule=[Asset("contract/orders/v1")])
def digest():
    @task(inlets=[Asset(name="contract/orders/v2")])
    def read(): ...

monthly = DAG(dag_id="monthly", schedule=ContractSchedule.partitioned("orders^1.2"))
ContractSensor(task_id="made", contract=made_up(), dag=monthly)
DAG("plain", schedule=[orders.asset])
"""


def found(text: str = DAGS) -> dict[str, Use]:
    return {use.name: use for use in find_in_text(text, "dags.py")}


def test_what_is_written_is_understood() -> None:
    uses = found()
    assert {name: (use.kind, use.contract, str(use.wanted or "")) for name, use in uses.items()} == {
        "revenue": ("starts", "clicks", "clicks>=1,<2"),
        "revenue.ok": ("waits", "orders", "orders>=1,<2"),
        "revenue.mapped": ("waits", "orders", "orders>=1,<2"),
        "revenue.publish": ("publishes", "orders", ""),
        "digest": ("starts", "orders", "orders>=1,<2"),
        "digest.read": ("waits", "orders", "orders>=2,<3"),
        "monthly": ("starts", "orders", "orders>=1.2,<2"),
        "monthly.made": ("waits", "", ""),
        "plain": ("starts", "orders", ""),
    }
    assert uses["revenue.ok"].uses == ("amount", "id")
    assert DAGS.splitlines()[uses["revenue.ok"].line - 1].strip().startswith("ContractSensor")


def test_what_only_running_would_tell_is_said() -> None:
    assert "not written as a literal" in found()["monthly.made"].note


def test_a_name_with_two_values_is_not_guessed() -> None:
    uses = found(
        'C = "a>=1,<2"\nC = "b>=1,<2"\nwith DAG("d"):\n    ContractSensor(task_id="t", contract=C)\n'
    )
    assert uses["d.t"].contract == ""


@pytest.mark.parametrize(
    ("version", "columns", "expected"),
    [
        pytest.param("1.4.0", ["orders.amount"], {"revenue.ok": "breaks", "revenue.mapped": "may break"}, id="used"),
        pytest.param("1.4.0", ["orders.note"], {"revenue.ok": "safe", "digest": "may break"}, id="not-used"),
        pytest.param("2.0.0", ["amount"], {"revenue.ok": "elsewhere", "digest.read": "may break"}, id="major"),
        pytest.param("1.1.0", ["amount"], {"monthly": "elsewhere"}, id="minor"),
        pytest.param("1.4.0", None, {"revenue.ok": "breaks", "digest": "breaks", "digest.read": "elsewhere"}, id="all"),
        pytest.param("", ["amount"], {"revenue.ok": "breaks", "digest.read": "may break"}, id="no-version"),
    ],
)  # fmt: skip
def test_whom_a_change_reaches(version: str, columns: list[str] | None, expected: dict[str, str]) -> None:
    ones = reached(found().values(), contract="orders", version=version, columns=columns)
    by_name = {one.use.name: str(one.reach) for one in ones}
    assert expected.items() <= by_name.items()
    assert by_name["monthly.made"] == Reach.MAY_BREAK
    assert "revenue" not in by_name


def test_a_file_that_is_no_python_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(DAGS)
    (tmp_path / "bad.py").write_text("with DAG('x') ContractSensor(")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\0")
    look = find_in_folder(tmp_path)
    assert len(look.uses) == 9
    assert len(look.problems) == 2
    with pytest.raises(InvalidError, match="no such"):
        find_in_folder(tmp_path / "nowhere")
