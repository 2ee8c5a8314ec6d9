"""Teaching Airflow's masker many texts at once."""

from __future__ import annotations

import re
import secrets

import pytest
from airflow.sdk._shared.secrets_masker.secrets_masker import SecretsMasker

from airflow_ext.secrets._vault_masking import MANY, Literals, learn, mask
from airflow_ext.vault.cache import Document
from airflow_ext.vault.documents import secret_texts


@pytest.fixture
def masker() -> SecretsMasker:
    return SecretsMasker()


def _redacted(masker: SecretsMasker, text: str) -> str:
    return str(masker.redact(text))


def test_few_texts_are_one_expression_and_the_longest_wins(masker: SecretsMasker) -> None:
    learn(masker, ["secret", "secret-and-more", "a.b(c"])
    assert isinstance(masker.replacer, re.Pattern)
    assert _redacted(masker, "x secret-and-more a.b(c axb(c") == "x *** *** axb(c"


def test_many_texts_are_masked_as_few_are(masker: SecretsMasker) -> None:
    """Those learned by Airflow itself, before and after, and those with characters an expression would escape."""
    texts = [f"{secrets.token_hex(6)}.({number}\n\\" for number in range(3 * MANY)]
    masker.add_mask("of-airflow-before")
    for start in range(0, len(texts), 7):
        learn(masker, texts[start : start + 7])
    assert isinstance(masker.replacer, Literals)
    masker.add_mask("of-airflow-after")
    learn(masker, ["one-more"])
    seen = " ".join([*texts, "of-airflow-before", "of-airflow-after", "one-more", "harmless"])
    assert _redacted(masker, seen) == " ".join(["***"] * (len(texts) + 3)) + " harmless"
    masker.reset_masker()
    learn(masker, ["new-one"])
    assert _redacted(masker, f"{texts[0]} new-one") == f"{texts[0]} ***"


def test_what_the_masker_skips_is_left_to_it(masker: SecretsMasker) -> None:
    learn(masker, ["", "abc", "airflow", "Airflow"])
    assert masker.patterns == set()


def test_a_masker_of_another_form_is_left_alone() -> None:
    learn(object(), ["secret"])


def test_ten_thousand_connections_are_masked(request: pytest.FixtureRequest) -> None:
    """Airflow's own way takes hours for them."""
    from airflow.sdk._shared.secrets_masker import _secrets_masker, redact

    request.addfinalizer(_secrets_masker().reset_masker)
    made = [Document("x", {"login": f"user{n:05}", "password": secrets.token_hex(9)}) for n in range(10_000)]
    for each in made:
        mask(each, lambda each=each: secret_texts(each))  # type: ignore[misc]  # bound now
    for each in (made[0], made[5_000], made[-1]):
        assert str(redact(f"as {each.data['password']}")) == "as ***"
