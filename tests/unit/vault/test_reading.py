"""Reading ahead of time, and what forked tasks tell each other; the server is a function here."""

from __future__ import annotations

import itertools
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_ext.exceptions import VaultDeniedError, VaultUnavailableError
from airflow_ext.testing.vault import LocalVault
from airflow_ext.vault.cache import Document, Key
from airflow_ext.vault.reading import Reader
from airflow_ext.vault.settings import CachePolicy
from airflow_ext.vault.shared import MEMORY, SharedCache, remove_left_behind
from tests.unit.vault.conftest import Clock, MakeClient
from tests.unit.vault.leased import eventually

KEY = ("secret", "connections/x")


class Server:
    """What is asked: it has a value, or an error."""

    def __init__(self) -> None:
        self.value, self.asked = "old", 0
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None
        self.waiting = False

    def __call__(self, key: Key) -> Document:
        self.waiting = not self.go.is_set()
        assert self.go.wait(5)
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Document("/".join(key), {"value": self.value}, self.asked)


MakeReader = Callable[..., Reader]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def make_reader(server: Server, clock: Clock) -> Iterator[MakeReader]:
    made: list[Reader] = []

    def make(*, shared: bool = False) -> Reader:
        policy = CachePolicy(shared=shared)
        reader = Reader(server, policy, shown="/".join, patience=10, clock=clock)
        made.append(reader)
        return reader

    yield make
    server.go.set()
    for each in made:
        each.close()


def _value(reader: Reader) -> str:
    document = reader.read(KEY).document
    assert document is not None
    return str(document.data["value"])


def test_a_secret_in_use_is_read_again_before_it_is_too_old(
    server: Server, make_reader: MakeReader, clock: Clock
) -> None:
    """Nobody waits for that, also not while the server is slow."""
    reader = make_reader()
    _value(reader)
    server.value = "new"
    clock.advance(46)
    server.go.clear()
    assert [_value(reader) for _ in range(5)] == ["old"] * 5
    server.go.set()
    eventually(lambda: _value(reader) == "new")
    assert server.asked == 2


def test_reading_ahead_while_nothing_answers_is_tried_seldom_and_changes_nothing(
    server: Server, make_reader: MakeReader, clock: Clock
) -> None:
    reader = make_reader()
    _value(reader)
    server.error = VaultUnavailableError("sealed")
    clock.advance(46)
    assert _value(reader) == "old"
    eventually(lambda: server.asked == 2)
    eventually(lambda: not reader.cache.reading(KEY).locked())
    assert [reader.read(KEY).source for _ in range(20)] == ["cache"] * 20
    assert server.asked == 2
    clock.advance(15)
    assert reader.read(KEY).source == "stale"


@pytest.mark.parametrize(
    ("age", "same_key", "expected"),
    [(61, True, "old"), (3300, True, "new"), (61, False, "new")],
    ids=["just past fresh", "old", "another key is read"],
)
def test_only_what_is_just_past_fresh_is_served_while_it_is_read(
    server: Server, make_reader: MakeReader, clock: Clock, age: float, same_key: bool, expected: str
) -> None:
    """Keys share locks, so that one is held does not mean that this key is being read."""
    reader, found = make_reader(), list[str]()
    lock = reader.cache.reading(KEY)
    keys = (("secret", f"connections/{number}") for number in itertools.count())
    key = KEY if same_key else next(each for each in keys if reader.cache.reading(each) is lock)
    _value(reader)
    server.value = "new"
    clock.advance(age)
    server.go.clear()
    first = threading.Thread(target=reader.read, args=(key,))
    first.start()
    eventually(lambda: server.waiting)
    second = threading.Thread(target=lambda: found.append(_value(reader)))
    second.start()
    second.join(0.1)  # long enough for who does not wait
    server.go.set()
    first.join()
    second.join()
    assert found == [expected]


def test_a_denial_met_ahead_of_time_holds_at_once(
    server: Server, make_reader: MakeReader, clock: Clock
) -> None:
    reader = make_reader()
    _value(reader)
    server.error = VaultDeniedError("denied", status=403)
    clock.advance(46)
    _value(reader)
    eventually(lambda: server.asked == 2 and not reader.cache.reading(KEY).locked())
    with pytest.raises(VaultDeniedError):
        reader.read(KEY)


# ------------------------------------------------------------------------------------------ shared by tasks

needs_memory = pytest.mark.skipif(not MEMORY.is_dir(), reason="no file system in memory")


def _in_a_fork(work: Callable[[], str]) -> str:
    """Return what a forked child returns."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(into, work().encode() or b"-")
        finally:
            os._exit(0)
    os.close(into)
    os.waitpid(pid, 0)
    with os.fdopen(out, "rb") as answer:
        return answer.read().decode()


@needs_memory
def test_what_one_task_read_the_next_ones_have_also_during_an_outage(
    server: Server, make_reader: MakeReader, clock: Clock
) -> None:
    reader = make_reader(shared=True)
    reader.share()

    def look() -> str:
        reading = reader.read(KEY)
        assert reading.document is not None
        return f"{reading.document.data['value']} {reading.document.version} {reading.source} asked {server.asked}"

    assert _in_a_fork(look) == "old 1 vault asked 1"
    assert _in_a_fork(look) == "old 1 cache asked 0"
    clock.advance(61)
    server.error = VaultUnavailableError("sealed")
    assert _in_a_fork(look) == "old 1 stale asked 1"
    assert _in_a_fork(look) == "old 1 stale asked 0"  # one task was enough to find that out
    clock.advance(11)
    server.error = VaultDeniedError("denied", status=403)
    assert _in_a_fork(lambda: _outcome(reader)) == "VaultDeniedError"
    server.error = VaultUnavailableError("sealed")
    assert _in_a_fork(lambda: _outcome(reader)) == "VaultUnavailableError"  # what was denied is known no more


def _outcome(reader: Reader) -> str:
    try:
        reader.read(KEY)
    except (VaultDeniedError, VaultUnavailableError) as error:
        return type(error).__name__
    return "read"


@needs_memory
def test_shared_files_are_private_hold_nothing_readable_and_end_with_their_maker(clock: Clock) -> None:
    shared, password = SharedCache.create(), secrets.token_urlsafe(18)
    assert shared is not None
    server = Server()
    server.value = password
    reader = Reader(server, CachePolicy(shared=True), shown="/".join, patience=10, clock=clock)
    reader.shared = shared
    reader.read(KEY)
    (file,) = shared.folder.iterdir()
    assert (shared.folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    raw = file.read_bytes()
    assert password.encode() not in raw
    assert b"connections" not in raw + file.name.encode()
    assert shared.key.hex() not in repr(shared)

    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))  # somebody changed it
    assert shared.get(KEY) is None
    other = SharedCache(shared.folder, secrets.token_bytes(32), shared.maker)
    assert other.get(KEY) is None

    _in_a_fork(lambda: shared.remove() or "")  # type: ignore[func-returns-value]  # nothing to tell
    assert shared.folder.is_dir()
    shared.remove()
    assert not shared.folder.exists()


@needs_memory
def test_what_a_killed_worker_left_is_removed_by_the_next(clock: Clock) -> None:
    folder = Path(_in_a_fork(lambda: str((SharedCache.create() or pytest.fail("none")).folder)))
    assert folder.is_dir()
    mine = SharedCache.create()
    assert mine is not None
    assert not folder.exists()
    remove_left_behind()
    assert mine.folder.is_dir()
    mine.remove()


def test_without_a_file_system_in_memory_nothing_is_shared(tmp_path: Path) -> None:
    assert SharedCache.create(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@needs_memory
def test_twenty_tasks_of_a_worker_are_one_login_and_one_read(
    vault: LocalVault, make_client: MakeClient
) -> None:
    vault.write("secret/connections/x", {"host": "db"})
    client = make_client(cache=CachePolicy(shared=True))
    client.reader.share()
    client.token()
    for _ in range(20):
        assert _in_a_fork(lambda: str(client.read(*KEY).document)).startswith("Document")
    assert [each.path for each in vault.calls()] == ["auth/approle/login", "secret/data/connections/x"]
