from __future__ import annotations

import re

import pytest

from airflow_ext.dbt.labels import LIMIT, clean, hashed, labels_of


def test_higher_ranks_keep_their_names() -> None:
    labels = labels_of([[("1", "x", "own")], [("2", "x", "lib"), ("3", "y", "lib")], [("4", "y", "test")]])
    assert labels == {"1": "x", "2": "lib__x", "3": "y", "4": "test__y"}


def test_who_is_not_alone_in_a_rank_takes_a_prefix_then_a_hash() -> None:
    labels = labels_of([[("1", "x", "a"), ("2", "x", "b"), ("3", "z", "a"), ("4", "z", "a")]])
    assert (labels["1"], labels["2"]) == ("a__x", "b__x")
    assert re.fullmatch(r"a__z_[0-9a-f]{8}", labels["3"])
    assert len(set(labels.values())) == 4


@pytest.mark.parametrize("name", ["build", "done"])
def test_the_tasks_of_the_group_itself_are_nobodys_label(name: str) -> None:
    assert labels_of([[("1", name, "model__p")]]) == {"1": f"model__p__{name}"}


def test_a_label_has_only_what_airflow_allows() -> None:
    from airflow.sdk import BaseOperator

    label = clean("größe 2.0/ß-x\n" + "é" * 300)
    assert len(label) == LIMIT
    assert BaseOperator(task_id=label).task_id == label
    assert BaseOperator(task_id=clean("")).task_id == "_", "an empty tag of dbt"


def test_a_hash_tells_two_ids_apart_and_is_always_the_same() -> None:
    assert hashed("a" * 300, "1") != hashed("a" * 300, "2")
    assert hashed("abc", "model.p.abc", limit=12) == hashed("abc", "model.p.abc", limit=12)
    assert len(hashed("abcdef", "x", limit=12)) == 12
