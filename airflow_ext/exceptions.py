"""Every error of this package, one class per reaction its reader can have.

::

    AirflowExtError
    |-- UnavailableError            wait and try again: something did not answer
    |   |-- VaultUnavailableError
    |   |-- StoreUnavailableError
    |   `-- SyncUnavailableError
    |-- DeniedError                 fix credentials or permissions
    |   |-- VaultDeniedError
    |   `-- SyncDeniedError
    |-- InvalidError (ValueError)   fix what you wrote: argument, file or connection
    |   |-- InvalidContractError
    |   |-- InvalidProjectError
    |   |-- InvalidSyncError
    |   `-- MissingExtraError
    `-- FailedError                 the work ran and ended badly: look at the data or the code
        |-- ContractNotMetError
        |-- DbtFailedError
        `-- SyncFailedError
            `-- SchemaDriftError

No message and no attribute ever holds a secret value. Every class survives ``pickle``.
"""

from __future__ import annotations

from typing import Any


def _restore(cls: type[AirflowExtError], args: tuple[Any, ...], state: dict[str, Any]) -> AirflowExtError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AirflowExtError(Exception):
    """Root of all errors raised by airflow-ext."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, dict(self.__dict__))


class UnavailableError(AirflowExtError):
    """Something this package talks to did not answer; trying again later may work.

    :param service: What did not answer, as a reader knows it ("Vault at https://vault:8200").
    """

    def __init__(self, message: str, *, service: str = "") -> None:
        super().__init__(message)
        self.service = service


class VaultUnavailableError(UnavailableError):
    """Vault is sealed, unreachable, overloaded or too slow."""


class StoreUnavailableError(UnavailableError):
    """The place where verdicts are kept cannot be read or written."""


class SyncUnavailableError(UnavailableError):
    """A sync vendor is unreachable, overloaded, broken or answers nothing that can be read.

    :param code: The vendor's own code, empty when it gave none.
    :param link: Page of the sync in the vendor's dashboard.
    :param retry_after: Seconds after which the vendor wants to be asked again; 0 when it did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        service: str = "",
        code: str = "",
        link: str = "",
        retry_after: float = 0.0,
    ) -> None:
        super().__init__(message, service=service)
        self.code = code
        self.link = link
        self.retry_after = retry_after


class DeniedError(AirflowExtError):
    """The other side answered and said no.

    :param status: HTTP status, 0 when the protocol has none.
    """

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class VaultDeniedError(DeniedError):
    """Vault refused a login or a read.

    :param path: The path that was refused; never a value.
    """

    def __init__(self, message: str, *, status: int = 0, path: str = "") -> None:
        super().__init__(message, status=status)
        self.path = path


class SyncDeniedError(DeniedError):
    """A sync vendor refused the key, or what the key may do.

    :param code: The vendor's own code, empty when it gave none.
    :param link: Page of the sync in the vendor's dashboard.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", link: str = "") -> None:
        super().__init__(message, status=status)
        self.code = code
        self.link = link


class InvalidError(AirflowExtError, ValueError):
    """An argument, a file or a connection is wrong and must be changed by its author."""


class InvalidContractError(InvalidError):
    """A contract file cannot be used.

    :param source: Where it was read from.
    :param problems: One line per problem, with the place in the file.
    """

    def __init__(self, message: str, *, source: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.source = source
        self.problems = problems


class InvalidProjectError(InvalidError):
    """A dbt project, manifest or selection cannot be used.

    :param source: The project or manifest.
    """

    def __init__(self, message: str, *, source: str = "") -> None:
        super().__init__(message)
        self.source = source


class InvalidSyncError(InvalidError):
    """A sync cannot run as it is: unknown, deleted, paused, broken, or asked for what it cannot do.

    :param status: HTTP status, 0 when it was no answer of the vendor.
    :param code: The vendor's own code, empty when it gave none.
    :param link: Page of the sync in the vendor's dashboard.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", link: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.link = link


class MissingExtraError(InvalidError):
    """A library that one of this package's extras brings is not installed.

    :param extra: The extra to install.
    """

    def __init__(self, message: str, *, extra: str = "") -> None:
        super().__init__(message)
        self.extra = extra


class FailedError(AirflowExtError):
    """The work itself ran and ended badly."""


class ContractNotMetError(FailedError):
    """A contract does not hold for a partition.

    :param contract: Contract id.
    :param version: Version that was judged, or the range that was asked for.
    :param partition: Partition key.
    :param status: Verdict status, such as ``BREACHED``.
    :param reasons: One line per failed rule, with expected and actual.
    """

    def __init__(
        self,
        message: str,
        *,
        contract: str = "",
        version: str = "",
        partition: str = "",
        status: str = "",
        reasons: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.contract = contract
        self.version = version
        self.partition = partition
        self.status = status
        self.reasons = reasons


class DbtFailedError(FailedError):
    """dbt did not come to an end, or ended with failed nodes.

    :param failed: Unique ids of the failed nodes, empty when dbt itself broke.
    """

    def __init__(self, message: str, *, failed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.failed = failed


class SyncFailedError(FailedError):
    """A sync run ended in any state but success.

    :param status: Our status of the run.
    :param run_id: The run, as its backend names it.
    :param table: The table it failed in, where that is known.
    :param reason: Why, in the vendor's words.
    :param link: Page of the sync in the vendor's dashboard.
    """

    def __init__(
        self,
        message: str,
        *,
        status: str = "failed",
        run_id: str = "",
        table: str = "",
        reason: str = "",
        link: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.run_id = run_id
        self.table = table
        self.reason = reason
        self.link = link


class SchemaDriftError(SyncFailedError):
    """Tables changed in a way that the task does not allow; the data has arrived, nothing follows.

    :param changes: One line per change.
    """

    def __init__(
        self,
        message: str,
        *,
        status: str = "drifted",
        run_id: str = "",
        table: str = "",
        reason: str = "",
        link: str = "",
        changes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, status=status, run_id=run_id, table=table, reason=reason, link=link)
        self.changes = changes
