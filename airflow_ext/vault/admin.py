"""What people and operators do in Vault beside reading secrets: list, write, rotate, revoke, encrypt, issue."""

from __future__ import annotations

import base64
import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_ext.exceptions import InvalidError, VaultDeniedError
from airflow_ext.vault.client import VaultClient
from airflow_ext.vault.transport import Reply

PASSWORD_LENGTH = 32


def new_password(length: int = PASSWORD_LENGTH) -> str:
    """Return a random password of letters and digits.

    :param length: Characters, 12 or more.
    :raises ValueError: If it would be too short.
    """
    if length < 12:
        raise ValueError(f"length={length!r}: give 12 or more characters")
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


NEEDED = {"GET": '"read"', "DELETE": '"delete"'}
"""What a policy must grant, by method; other calls need "update"."""

_WRITE = '"create", "update"'


def perform(
    client: VaultClient,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    refused: str = "Vault does not accept it",
    needs: str | None = None,
) -> Reply:
    """Make a call that is not repeated, and return its answer if it is a success.

    :param path: Path below ``/v1/``.
    :param refused: What status 400 is likely to mean here; Vault says it in words that are left out.
    :param needs: Capabilities that a policy must grant, as a policy lists them; ``None`` takes them from the method.
    :raises VaultDeniedError: With path and status, for any refusal; Vault's own words are left out, as they may
        repeat what was sent.
    :raises VaultUnavailableError: If Vault does not answer.
    """
    path = checked_path(path)
    reply = client.call(method, path, body=body, once=method != "GET")
    if reply.status >= 400:
        needs = needs or NEEDED.get(method, '"update"')
        hints = {
            403: f'a policy with path "{path}" {{ capabilities = [{needs}] }} would allow it',
            404: "nothing is there"
            if method == "GET"
            else "no engine is mounted there, or it has no such path",
            400: refused,
        }
        hint = hints.get(reply.status, "it failed in Vault")
        text = f"Vault at {client.settings.shown_address} refused {method} {path} (status {reply.status}): {hint}"
        raise VaultDeniedError(text, status=reply.status, path=path)
    return reply


def checked_path(path: str) -> str:
    """Return a path without slashes at its ends.

    :raises InvalidError: If it could leave the place it names.
    """
    clean = path.strip("/")
    if not clean or {"", ".", ".."} & set(clean.split("/")) or re.search(r"[?#\x00-\x1f]", clean):
        raise InvalidError(f"path={path!r}: give a path such as secret/connections/warehouse")
    return clean


def metadata(client: VaultClient, mount: str, path: str) -> Mapping[str, Any] | None:
    """Return the metadata of a KV version 2 secret, ``None`` where there is none.

    :raises VaultDeniedError: If it may not be read.
    """
    try:
        return perform(client, "GET", f"{mount}/metadata/{path}").data
    except VaultDeniedError as error:
        if error.status == 404:
            return None
        raise


def write(
    client: VaultClient, mount: str, path: str, data: Mapping[str, Any], *, cas: int | None = None
) -> int | None:
    """Write a secret and return its new version, ``None`` for KV version 1.

    :param cas: The version it must have now, 0 for none; ``None`` writes in any case. Needs KV version 2.
    :raises VaultDeniedError: If it is refused; with status 400 when the version is another one.
    """
    if client.settings.kv_engine_version == 1:
        if cas is not None:
            raise InvalidError(f"cas={cas!r}: KV version 1 has no versions to compare")
        perform(client, "POST", f"{mount}/{path}", data, needs=_WRITE)
        return None
    options, refused = {}, f"does {mount} want cas= with every write?"
    if cas is not None:
        options, refused = {"cas": cas}, f"the secret has another version than cas={cas}"
    body = {"data": dict(data), "options": options}
    reply = perform(client, "POST", f"{mount}/data/{path}", body, refused=refused, needs=_WRITE)
    return int(reply.data["version"])


def list_names(client: VaultClient, mount: str, folder: str) -> Iterator[str]:
    """Yield the names below a folder, those in folders of it too.

    :raises VaultDeniedError: If they may not be listed.
    """
    base = f"{mount}/metadata" if client.settings.kv_engine_version == 2 else mount
    todo = [""]
    while todo:
        below = todo.pop(0)
        place = "/".join(part for part in (base, folder, below.strip("/")) if part)
        reply = client.call("GET", place, query="?list=true")
        if reply.status == 404:
            continue
        if reply.status != 200:
            text = f'{place} may not be listed (status {reply.status}): a policy with path "{place}/*" {{ capabilities = ["list"] }} would allow it'
            raise VaultDeniedError(text, status=reply.status, path=place)
        for name in reply.data.get("keys") or []:
            if str(name).endswith("/"):
                todo.append(f"{below}{name}")
            else:
                yield f"{below}{name}"


def transit(client: VaultClient, verb: str, mount: str, key: str, items: Sequence[str]) -> list[str]:
    """Encrypt or decrypt texts.

    :param verb: ``encrypt`` or ``decrypt``.
    :returns: Ciphertexts, or plain texts, in order.
    :raises VaultDeniedError: If it is refused.
    """
    given, got = ("plaintext", "ciphertext") if verb == "encrypt" else ("ciphertext", "plaintext")
    sent = [base64.b64encode(each.encode()).decode() if verb == "encrypt" else each for each in items]
    body = {"batch_input": [{given: each} for each in sent]}
    refused = f"does {mount} have the key {key!r}?"
    if verb == "decrypt":
        refused = f"does {mount} have the key {key!r}, and was every ciphertext made with it?"
    reply = perform(client, "POST", f"{mount}/{verb}/{key}", body, refused=refused)
    results = reply.data.get("batch_results") or []
    if len(results) != len(items) or any(got not in each for each in results):
        raise VaultDeniedError(
            f"Vault could not {verb} all items with {mount}/{key}: {refused}",
            status=400,
            path=f"{mount}/{verb}/{key}",
        )
    found = [str(each[got]) for each in results]
    return found if verb == "encrypt" else [base64.b64decode(each).decode() for each in found]
