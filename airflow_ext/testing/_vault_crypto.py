"""Transit and PKI of the local Vault-compatible server: real ciphers and real certificates."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_ext.testing._vault_auth import WireError, seconds
from airflow_ext.testing._vault_kv import Answer, listing

Body = Mapping[str, Any]


class Transit:
    """Encryption with named keys of several versions (AES-256-GCM)."""

    kind = "transit"
    version = ""

    def __init__(self) -> None:
        self._keys: dict[str, list[bytes]] = {}

    def exists(self, path: str) -> bool:
        return path.rpartition("/")[2] in self._keys

    def put(self, path: str, data: Mapping[str, Any]) -> int:  # noqa: ARG002
        name = path.removeprefix("keys/")
        self._keys.setdefault(name, []).append(secrets.token_bytes(32))
        return len(self._keys[name])

    def handle(self, method: str, path: str, query: Mapping[str, str], body: Body) -> Answer:  # noqa: ARG002
        area, _, name = path.partition("/")
        if area == "keys":
            if method == "LIST":
                return listing(self._keys, "")
            if name.endswith("/rotate"):
                self.put(name.removesuffix("/rotate"), {})
            elif name not in self._keys:
                self.put(name, {})
            return Answer(204)
        work = {"encrypt": self._encrypt, "decrypt": self._decrypt, "rewrap": self._rewrap}.get(area)
        if work is None:
            raise WireError(404, f"unsupported path {path}")
        if name not in self._keys and area == "encrypt":
            self.put(name, {})
        if name not in self._keys:
            raise WireError(400, "encryption key not found")
        if "batch_input" in body:
            return Answer(data={"batch_results": [work(name, each) for each in body["batch_input"]]})
        return Answer(data=work(name, body))

    def _encrypt(self, name: str, item: Body) -> dict[str, Any]:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            plain = base64.b64decode(str(item.get("plaintext", "")), validate=True)
        except ValueError:
            raise WireError(400, "failed to base64-decode plaintext") from None
        number, nonce = len(self._keys[name]), secrets.token_bytes(12)
        sealed = nonce + AESGCM(self._keys[name][-1]).encrypt(nonce, plain, None)
        return {"ciphertext": f"vault:v{number}:{base64.b64encode(sealed).decode()}", "key_version": number}

    def _decrypt(self, name: str, item: Body) -> dict[str, Any]:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        found = re.fullmatch(r"vault:v(\d+):(.+)", str(item.get("ciphertext", "")))
        try:
            if found is None:
                raise ValueError
            sealed = base64.b64decode(found[2], validate=True)
            key = self._keys[name][int(found[1]) - 1]
            plain = AESGCM(key).decrypt(sealed[:12], sealed[12:], None)
        except (ValueError, IndexError, InvalidTag):
            raise WireError(400, "invalid ciphertext: no such version or damaged") from None
        return {"plaintext": base64.b64encode(plain).decode()}

    def _rewrap(self, name: str, item: Body) -> dict[str, Any]:
        return self._encrypt(name, self._decrypt(name, item))


class Pki:
    """A certificate authority with a self-signed root.

    :param now: The server's clock.
    """

    kind = "pki"
    version = ""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._roles: dict[str, dict[str, Any]] = {}
        self._root: tuple[Any, Any] | None = None
        self.revoked: set[str] = set()

    def exists(self, path: str) -> bool:
        return bool(path)

    def put(self, path: str, data: Mapping[str, Any]) -> int:
        self.handle("POST", path, {}, data)
        return 1

    def handle(self, method: str, path: str, query: Mapping[str, str], body: Body) -> Answer:  # noqa: ARG002
        area, _, name = path.partition("/")
        if area == "roles" and method in ("POST", "PUT"):
            self._roles[name] = dict(body)
            return Answer(204)
        if area == "issue":
            if name not in self._roles:
                raise WireError(400, f"unknown role: {name}")
            return Answer(data=self._issue(self._roles[name], body))
        if path == "revoke":
            self.revoked.add(str(body.get("serial_number")))
            return Answer(data={"revocation_time": int(self._now())})
        raise WireError(404, f"unsupported path {path}")

    def _issue(self, role: Mapping[str, Any], body: Body) -> dict[str, Any]:
        name = str(body.get("common_name") or "")
        domains = role.get("allowed_domains") or []
        if not role.get("allow_any_name") and not any(
            name == each or name.endswith(f".{each}") for each in domains
        ):
            raise WireError(400, f"common name {name} not allowed by this role")
        authority = self._root or self._make("the local server's own authority", 3650 * 86400, None, ())
        self._root = authority
        ttl = min(seconds(body.get("ttl"), 86400), seconds(role.get("max_ttl"), 30 * 86400))
        alternatives = [each for each in str(body.get("alt_names") or "").split(",") if each]
        certificate, key = self._make(name, ttl, authority, (name, *alternatives))
        issuer = _pem(authority[0])
        serial = f"{certificate.serial_number:040x}"
        return {
            "certificate": _pem(certificate),
            "issuing_ca": issuer,
            "ca_chain": [issuer],
            "private_key": _key_pem(key),
            "private_key_type": "ec",
            "serial_number": ":".join(re.findall("..", serial)),
            "expiration": int(self._now()) + ttl,
        }

    def _make(
        self, name: str, ttl: int, issuer: tuple[Any, Any] | None, names: tuple[str, ...]
    ) -> tuple[Any, Any]:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        start = datetime.fromtimestamp(self._now(), UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start - timedelta(seconds=30))
            .not_valid_after(start + timedelta(seconds=ttl))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        )
        if names:
            made = made.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False
            )
        return made.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def _pem(certificate: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return str(certificate.public_bytes(Encoding.PEM).decode())


def _key_pem(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return str(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode())
