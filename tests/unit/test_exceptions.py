from __future__ import annotations

import inspect
import pickle

import pytest

from airflow_ext import exceptions
from airflow_ext.exceptions import AirflowExtError

CLASSES = [
    value
    for value in vars(exceptions).values()
    if isinstance(value, type) and issubclass(value, AirflowExtError)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickle_with_its_data(cls: type[AirflowExtError]) -> None:
    """Airflow sends errors between processes."""
    details: dict[str, object] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            details[name] = type(parameter.default)(["x"] if isinstance(parameter.default, tuple) else 7)
    error = cls("what happened", **details)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(again) is cls
    assert str(again) == "what happened"
    assert vars(again) == vars(error) == details


def test_the_docstring_draws_every_class() -> None:
    assert exceptions.__doc__ is not None
    for cls in CLASSES:
        assert cls.__name__ in exceptions.__doc__


def test_a_wrong_argument_is_also_a_value_error() -> None:
    assert issubclass(exceptions.InvalidError, ValueError)
