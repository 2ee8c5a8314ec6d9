"""Wrong arguments are refused where they are written, and named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from airflow_ext.vault import BreakerPolicy, CachePolicy, Timeouts, VaultSettings


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"auth_type": "okta"}, "auth_type='okta' is not known: use one of token, approle"),
        ({"auth_type": "approle"}, "needs role_id"),
        ({"auth_type": "token"}, "needs token, token_path or .* VAULT_TOKEN"),
        ({"token": "t", "kv_engine_version": 3}, "kv_engine_version=3"),
    ],
    ids=["auth type", "no role", "no token", "version"],
)
def test_wrong_settings_are_named(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        VaultSettings(**arguments)


def test_the_environment_gives_address_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_ADDR", "https://vault:8200/")
    monkeypatch.setenv("VAULT_TOKEN", "from-the-environment")
    assert VaultSettings().address == "https://vault:8200"


def test_user_and_password_of_an_address_are_not_shown() -> None:
    shown = VaultSettings(url="https://me:secret@vault:8200/base", token="t").shown_address
    assert shown == "https://vault:8200/base"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, (0.5, 1.5)), (3, (3.0, 3.0)), ([1, 4], (1.0, 4.0))],
    ids=["default", "one number", "pair"],
)
def test_timeouts_are_one_number_or_two(
    value: float | Sequence[float] | None, expected: tuple[float, float]
) -> None:
    timeouts = Timeouts.of(value)
    assert (timeouts.connect, timeouts.read) == expected


@pytest.mark.parametrize("value", [0, -1, [1], [1, 2, 3], [0, 1]], ids=str)
def test_impossible_timeouts_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="timeout="):
        Timeouts.of(value)


def test_impossible_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="soft_ttl=-1"):
        CachePolicy(soft_ttl=-1)
    with pytest.raises(ValueError, match="hard_ttl=10 is below soft_ttl=60"):
        CachePolicy(hard_ttl=10)
    with pytest.raises(ValueError, match="breaker_failures=0"):
        BreakerPolicy(failures=0)


@pytest.mark.parametrize("name", ["url", "VAULT_ADDR"])
def test_an_address_without_scheme_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("VAULT_ADDR", "me:secret@vault:8200")
    with pytest.raises(ValueError, match=rf"^{name}='vault:8200': http:// or https:// is missing"):
        VaultSettings(url="vault:8200" if name == "url" else None, token="t")
