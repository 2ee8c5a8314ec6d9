"""Work on Vault itself: write, rotate, revoke, encrypt, issue; no value of a secret ever goes into XCom or a log."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.log import mask_secret

from airflow_ext.exceptions import InvalidError, VaultDeniedError
from airflow_ext.hooks.vault import VaultHook
from airflow_ext.vault import admin
from airflow_ext.vault.client import VaultClient


class _VaultOperator(BaseOperator):
    """What all operators on Vault share.

    :param vault_conn_id: Connection of type ``vault``; ``None`` means the configured backend's Vault.
    """

    def __init__(self, *, vault_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vault_conn_id = vault_conn_id

    def execute(self, context: Context) -> Any:  # noqa: ARG002  # Airflow passes it
        """Do the work; a refusal fails the task for good, an outage goes through its retries."""
        try:
            return self.work(VaultHook(self.vault_conn_id).get_conn())
        except (VaultDeniedError, InvalidError) as error:
            raise AirflowFailException(str(error)) from error.__cause__

    def work(self, client: VaultClient) -> Any:
        """Do the work and return what goes into XCom."""
        raise NotImplementedError

    def _told(self, verb: str, path: str, version: int | None, keys: list[str]) -> dict[str, Any]:
        self.log.info("%s %s: version %s, keys %s", verb, path, version or "none", ", ".join(keys))
        return {"path": path, "version": version, "keys": keys}


class VaultReadSecretOperator(_VaultOperator):
    """Tell the version and the key names of a secret, for the tasks that follow.

    :param path: Path in the mount.
    :param mount: Mount of the key-value engine.
    :returns: ``path``, ``version``, ``keys``.
    """

    template_fields: Sequence[str] = ("path", "mount")

    def __init__(self, *, path: str, mount: str = "secret", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path, self.mount = path, mount

    def work(self, client: VaultClient) -> dict[str, Any]:
        """Read it."""
        path = admin.checked_path(self.path)
        document = client.read(self.mount, path).document
        if document is None:
            raise InvalidError(f"{self.mount}/{path} is not there")
        return self._told("Read", document.path, document.version, sorted(document.data))


class VaultWriteSecretOperator(_VaultOperator):
    """Write a secret, with passwords made here if wanted.

    :param path: Path in the mount.
    :param data: Keys and values; what is a secret in it should come from a connection or variable, which are masked.
    :param generate: Key to length of a random password, made anew each time.
    :param cas: The version the secret must have now, 0 for none: then it is not written twice. ``None`` writes in any
        case.
    :param mount: Mount of the key-value engine.
    :returns: ``path``, ``version``, ``keys``.
    """

    template_fields: Sequence[str] = ("path", "data", "mount")

    def __init__(
        self,
        *,
        path: str,
        data: Mapping[str, Any] | None = None,
        generate: Mapping[str, int] | None = None,
        cas: int | None = None,
        mount: str = "secret",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not data and not generate:
            raise ValueError("give data or generate: there is nothing to write")
        self.path, self.data, self.generate, self.cas, self.mount = (
            path,
            data or {},
            generate or {},
            cas,
            mount,
        )

    def work(self, client: VaultClient) -> dict[str, Any]:
        """Write it."""
        made = {key: admin.new_password(length) for key, length in self.generate.items()}
        for value in made.values():
            mask_secret(value)
        written = {**self.data, **made}
        path = admin.checked_path(self.path)
        version = admin.write(client, self.mount, path, written, cas=self.cas)
        return self._told("Wrote", f"{self.mount}/{path}", version, sorted(written))


class VaultRotateStaticRoleOperator(_VaultOperator):
    """Let Vault change the password of a static role's user now.

    :param role: The static role.
    :param mount: Mount of the database engine.
    """

    template_fields: Sequence[str] = ("role", "mount")

    def __init__(self, *, role: str, mount: str = "database", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.role, self.mount = role, mount

    def work(self, client: VaultClient) -> None:
        """Rotate it."""
        refused = f"does {self.mount} have the static role {self.role!r}?"
        admin.perform(client, "POST", f"{self.mount}/rotate-role/{self.role}", {}, refused=refused)
        self.log.info("Vault has changed the password of static role %s (%s)", self.role, self.mount)


class VaultRotateRootOperator(_VaultOperator):
    """Let Vault change the password of its own account in a database; nobody knows the new one but Vault.

    :param database: Name of the configured database.
    :param mount: Mount of the database engine.
    """

    template_fields: Sequence[str] = ("database", "mount")

    def __init__(self, *, database: str, mount: str = "database", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.database, self.mount = database, mount

    def work(self, client: VaultClient) -> None:
        """Rotate it."""
        refused = f"does {self.mount} have the database {self.database!r}, and get into it?"
        admin.perform(client, "POST", f"{self.mount}/rotate-root/{self.database}", {}, refused=refused)
        self.log.info("Vault has changed its own password in database %s (%s)", self.database, self.mount)


class VaultRevokeOperator(_VaultOperator):
    """Revoke one lease, or all below a prefix.

    :param lease_id: The lease.
    :param prefix: What ids begin with, such as ``database/creds/etl``; needs a policy with ``sudo``.
    """

    template_fields: Sequence[str] = ("lease_id", "prefix")

    def __init__(self, *, lease_id: str | None = None, prefix: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if (lease_id is None) == (prefix is None):
            raise ValueError("give either lease_id or prefix")
        self.lease_id, self.prefix = lease_id, prefix

    def work(self, client: VaultClient) -> None:
        """Revoke, and wait until it is done."""
        if self.lease_id is not None:
            body = {"lease_id": self.lease_id, "sync": True}
            admin.perform(client, "PUT", "sys/leases/revoke", body, refused="is lease_id the id of a lease?")
        else:
            path, body = f"sys/leases/revoke-prefix/{self.prefix}", {"sync": True}
            admin.perform(client, "PUT", path, body, needs='"update", "sudo"')
        self.log.info("Revoked %s", self.lease_id or f"all leases below {self.prefix}")


class VaultEncryptOperator(_VaultOperator):
    """Encrypt texts with a transit key, for the tasks that follow.

    :param key: Name of the key.
    :param texts: What to encrypt; rendered, so take it from a file or another system where it must not be seen.
    :param mount: Mount of the transit engine.
    :returns: Ciphertexts, in order.
    """

    template_fields: Sequence[str] = ("key", "texts", "mount")

    def __init__(self, *, key: str, texts: Sequence[str], mount: str = "transit", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.key, self.texts, self.mount = key, texts, mount

    def work(self, client: VaultClient) -> list[str]:
        """Encrypt them."""
        found = admin.transit(client, "encrypt", self.mount, self.key, list(self.texts))
        self.log.info("Encrypted %d texts with %s/%s", len(found), self.mount, self.key)
        return found


class VaultDecryptOperator(_VaultOperator):
    """Decrypt texts of a transit key into a file only its owner may read, one after the other.

    :param key: Name of the key.
    :param ciphertexts: What to decrypt.
    :param file: Where the texts go; written anew, one per line.
    :param mount: Mount of the transit engine.
    :returns: The file.
    """

    template_fields: Sequence[str] = ("key", "ciphertexts", "file", "mount")

    def __init__(
        self, *, key: str, ciphertexts: Sequence[str], file: str, mount: str = "transit", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.key, self.ciphertexts, self.file, self.mount = key, ciphertexts, file, mount

    def work(self, client: VaultClient) -> str:
        """Decrypt them."""
        texts = admin.transit(client, "decrypt", self.mount, self.key, list(self.ciphertexts))
        for text in texts:
            mask_secret(text)
        _write_private(Path(self.file), "".join(f"{text}\n" for text in texts))
        self.log.info("Decrypted %d texts with %s/%s into %s", len(texts), self.mount, self.key, self.file)
        return self.file


class VaultIssueCertificateOperator(_VaultOperator):
    """Issue a certificate into a folder: ``certificate.pem``, ``key.pem`` (only its owner may read it), ``ca.pem``.

    :param role: Role of the PKI engine.
    :param common_name: Name in the certificate.
    :param folder: Where the files go; made when missing.
    :param alt_names: Further names.
    :param ttl: Seconds, or text such as ``"24h"``; ``None`` means what the role has.
    :param mount: Mount of the PKI engine.
    :returns: ``serial_number``, ``expiration`` (seconds since 1970), ``folder``.
    """

    template_fields: Sequence[str] = ("role", "common_name", "folder", "alt_names", "mount")

    def __init__(
        self,
        *,
        role: str,
        common_name: str,
        folder: str,
        alt_names: Sequence[str] = (),
        ttl: int | str | None = None,
        mount: str = "pki",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.role, self.common_name, self.folder = role, common_name, folder
        self.alt_names, self.ttl, self.mount = alt_names, ttl, mount

    def work(self, client: VaultClient) -> dict[str, Any]:
        """Issue it."""
        body = {"common_name": self.common_name, "alt_names": ",".join(self.alt_names)}
        if self.ttl is not None:
            body["ttl"] = str(self.ttl)
        refused = (
            f"does {self.mount} have the role {self.role!r}, and does it allow common_name={self.common_name!r},"
            " alt_names and ttl?"
        )
        issued = admin.perform(client, "POST", f"{self.mount}/issue/{self.role}", body, refused=refused).data
        mask_secret(str(issued["private_key"]))
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_private(folder / "key.pem", str(issued["private_key"]))
        (folder / "certificate.pem").write_text(str(issued["certificate"]))
        (folder / "ca.pem").write_text("\n".join(issued.get("ca_chain") or [issued["issuing_ca"]]))
        told = {key: issued[key] for key in ("serial_number", "expiration")}
        serial = told["serial_number"]
        self.log.info("Issued certificate %s for %s into %s", serial, self.common_name, self.folder)
        return {**told, "folder": self.folder}


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)  # one that is there may be open to others
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
