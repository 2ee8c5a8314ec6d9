"""Names of messages in the outbox."""

from __future__ import annotations

import hashlib

from airflow_ext.sla.ledger.models import OutboxRow

CALLBACK = -1
"""Number of the plain callback among a policy's channels."""
_LONGEST = 255


def dedupe_key(incident_key: str, *, kind: str, step: int, channel: int) -> str:
    """Return the name of one message: the same message has the same name, whoever writes it.

    :param incident_key: Key of the incident.
    :param kind: ``open``, ``resolve`` or one of the sender's.
    :param step: 0 for the policy's own channels.
    :param channel: Number within the step, :data:`CALLBACK` for the callback.
    :returns: At most 255 characters; of a longer one, a digest takes the place of the key's end.
    """
    tail = f":{kind}:{step}:{channel}"
    if len(incident_key) + len(tail) <= _LONGEST:
        return incident_key + tail
    digest = hashlib.sha256(incident_key.encode()).hexdigest()[:12]
    return f"{incident_key[: _LONGEST - len(tail) - 13]}~{digest}{tail}"


def describe(row: OutboxRow) -> str:
    """Return a line for logs; it holds no secret."""
    return f"{row.dedupe_key} ({row.state}, {row.attempts} tries)"
