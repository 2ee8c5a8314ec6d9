"""Short, stable names for tasks.

A label is the plain name wherever that is nobody else's, so that adding a node renames another only if it
takes its name: what the project itself builds comes first, then what its packages build, then sources and
exposures, then tests.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

RESERVED = frozenset({"build", "announce", "done"})
"""Task ids that :class:`~airflow_ext.operators.dbt.DbtTaskGroup` uses itself."""

LIMIT = 200
"""Characters of a label with the groups around it; Airflow's limit is 250, the rest is for the groups that
the dbt group is in, and its own id."""

_HASH = 8


def labels_of(ranked: Sequence[Iterable[tuple[str, str, str]]]) -> dict[str, str]:
    """Return a label for every id.

    A name that several of one rank have is none of theirs; a name of a higher rank is taken. Who cannot have its
    plain name gets a prefix in front, and a hash behind if that is not enough.

    :param ranked: Ids with their plain name and prefix, the ranks in order.
    """
    made: dict[str, str] = {}
    taken = set(RESERVED)
    for rank in ranked:
        wanted = {unique_id: (clean(name), clean(f"{prefix}__{name}")) for unique_id, name, prefix in rank}
        plain = _free((one[0] for one in wanted.values()), taken)
        long = _free((one[1] for one in wanted.values() if one[0] not in plain), taken | plain)
        for unique_id, (short, full) in wanted.items():
            made[unique_id] = short if short in plain else full if full in long else hashed(full, unique_id)
        taken.update(made[unique_id] for unique_id in wanted)
    return made


def clean(name: str) -> str:
    """Return a name with only what Airflow allows in ids: letters of any script, digits, ``.``, ``-``, ``_``.

    :param name: The name; what is longer than :data:`LIMIT` is cut, with a hash of the whole behind.
    """
    # Airflow takes no empty id; dbt takes an empty tag.
    cleaned = re.sub(r"[^\w.-]", "_", name) or "_"
    return cleaned if len(cleaned) <= LIMIT else hashed(cleaned, name)


def hashed(name: str, identity: str, *, limit: int = LIMIT) -> str:
    """Return a name made unique by a short hash of what it stands for.

    :param name: The name, cut if it would be too long.
    :param identity: What it stands for.
    :param limit: Characters of the result.
    """
    digest = hashlib.blake2b(identity.encode(), digest_size=_HASH // 2).hexdigest()
    return f"{name[: limit - _HASH - 1]}_{digest}"


def _free(names: Iterable[str], taken: set[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count == 1 and name not in taken}
