"""Version ranges of contracts, such as ``daily_delays>=1,<2``."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from airflow_ext.exceptions import InvalidError

ID_PATTERN = r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]{0,198}[A-Za-z0-9])?"
"""A contract id: it becomes part of an asset's name and stands before the range."""

MAX_MAJORS = 20
_FAR = 999_999


def asset_name(contract_id: str, major: int) -> str:
    """Return the name of the asset that stands for one major version of a contract."""
    return f"contract/{contract_id}/v{major}"


@dataclass(frozen=True)
class ContractRange:
    """A contract and the versions of it that a consumer can live with.

    :param id: Contract id.
    :param specifiers: PEP 440 specifiers, such as ``>=1,<2``.
    :param majors: Every major version that can satisfy them, ascending.
    """

    id: str
    specifiers: SpecifierSet
    majors: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> ContractRange:
        """Read ``<id><range>``; also ``^1.2`` (same major) and ``~1.2`` (same minor).

        :raises ValueError: If it cannot be read, has no upper end, or nothing can satisfy it.
        """
        if not isinstance(text, str):
            raise TypeError(
                f"contract={text!r}: expected a str such as 'orders>=2,<3', got {type(text).__name__}"
            )
        return _parse(text)

    @classmethod
    def _of(cls, text: str) -> ContractRange:
        match = re.fullmatch(rf"\s*({ID_PATTERN})\s*([<>=!~^].*)", text)
        if match is None:
            raise InvalidError(
                f"contract={text!r}: expected a contract id and a version range, such as 'orders>=2,<3'"
            )
        contract_id, wanted = match[1], match[2]
        try:
            specifiers = SpecifierSet(",".join(_rewrite(part.strip()) for part in wanted.split(",")))
        except (InvalidSpecifier, InvalidVersion):
            raise InvalidError(
                f"contract={text!r}: {wanted!r} is not a version range; write for example {contract_id + '>=2,<3'!r}"
            ) from None
        return cls(contract_id, specifiers, _majors(text, contract_id, specifiers))

    def __str__(self) -> str:
        return f"{self.id}{','.join(sorted(map(str, self.specifiers), reverse=True))}"

    def __contains__(self, version: str) -> bool:
        try:
            return self.specifiers.contains(Version(version), prereleases=True)
        except InvalidVersion:
            return False

    @property
    def assets(self) -> tuple[str, ...]:
        """Names of the assets of :attr:`majors`, in the same order."""
        return tuple(asset_name(self.id, major) for major in self.majors)

    @property
    def split_majors(self) -> tuple[int, ...]:
        """Major versions of which the range holds some versions and not others."""
        return tuple(
            major
            for major in self.majors
            if not all(
                self.specifiers.contains(v, prereleases=True) for v in _candidates(major, self.specifiers)
            )
        )


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> ContractRange:
    return ContractRange._of(text)  # noqa: SLF001  # the other half of parse(); ten thousand waiters share one


def _rewrite(part: str) -> str:
    """Turn the npm forms ``^1.2`` and ``~1.2`` into PEP 440."""
    if part.startswith("^"):
        version = Version(part[1:])
        return f">={version},<{version.major + 1}"
    if part.startswith("~") and not part.startswith("~="):
        version = Version(part[1:])
        upper = f"{version.major}.{version.minor + 1}" if len(version.release) > 1 else f"{version.major + 1}"
        return f">={version},<{upper}"
    return part


def _version_of(specifier: Specifier) -> Version:
    return Version(specifier.version.removesuffix(".*"))


def _majors(text: str, contract_id: str, specifiers: SpecifierSet) -> tuple[int, ...]:
    upper = [_version_of(s).major for s in specifiers if s.operator in ("<", "<=", "==", "~=", "===")]
    if not upper:
        low = max((_version_of(s).major for s in specifiers if s.operator in (">", ">=")), default=1)
        fix = ",".join([*(str(s) for s in specifiers), f"<{low + 1}"])
        raise InvalidError(
            f"contract={text!r} has no upper end: a new major version may break you, and what a task waits for "
            f"is fixed when the DAG is parsed. Write {contract_id + fix!r}"
        )
    low = max((_version_of(s).major for s in specifiers if s.operator in (">", ">=", "==", "~=")), default=0)
    high = min(upper)
    if high - low >= MAX_MAJORS:
        raise InvalidError(f"contract={text!r} spans more than {MAX_MAJORS} major versions; narrow it")
    majors = tuple(m for m in range(low, high + 1) if _reachable(m, specifiers))
    if not majors:
        raise InvalidError(
            f"contract={text!r}: no version can satisfy this range; write for example {contract_id + '>=2,<3'!r}"
        )
    return majors


def _reachable(major: int, specifiers: SpecifierSet) -> bool:
    """Say whether any version of ``major`` satisfies the range."""
    return any(specifiers.contains(v, prereleases=True) for v in _candidates(major, specifiers))


def _candidates(major: int, specifiers: SpecifierSet) -> list[Version]:
    """Return versions that tell a range from another: bounds and their neighbours suffice."""
    candidates = [Version(f"{major}.0.0"), Version(f"{major}.{_FAR}.{_FAR}")]
    for specifier in specifiers:
        version = _version_of(specifier)
        if version.major == major:
            candidates += [
                version,
                Version(f"{major}.{version.minor}.{version.micro + 1}"),
                Version(f"{major}.{version.minor + 1}.0"),
            ]
            if version.minor:
                candidates.append(Version(f"{major}.{version.minor - 1}.{_FAR}"))
            if version.micro:
                candidates.append(Version(f"{major}.{version.minor}.{version.micro - 1}"))
    return candidates
