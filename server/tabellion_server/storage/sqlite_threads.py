"""The threads that SQLite runs in: one that writes in groups, some that read."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.sqlite_file import connect, storage_error

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

MAX_GROUP: Final = 64


def closed_error(path: Path) -> StorageError:
    """Say that the store was used after its end."""
    return StorageError(f"store {path} is closed", hint="open it again")


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    done: Future[Any]


class GroupWriter:
    """Runs write jobs in one thread; those that wait together share one transaction and fsync.

    A job that fails is undone alone. No job's outcome is told before the transaction is on disk.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        before_commit: Work[None] = lambda _: None,
    ) -> None:
        """Take the connection that writes, and what each transaction asks before its end."""
        self._connection = connection
        self._path = path
        self._before_commit = before_commit
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Say whether jobs still get done."""
        return self._thread.is_alive() and not self._closed

    def submit(self, work: Work[T]) -> Future[T]:
        """Queue a job.

        Raises:
            StorageError: Closed.
        """
        done: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise closed_error(self._path)
            self._jobs.put(_Job(work, done))
        return done

    def close(self) -> None:
        """Do what is queued, then close the connection."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while True:
            group: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                if job.done.set_running_or_notify_cancel():
                    group.append(job)
                if len(group) >= MAX_GROUP:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._transact(group)
            if job is None:
                return

    def _transact(self, group: list[_Job]) -> None:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._attempt(job) for job in group]
            self._before_commit(connection)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  (the thread must outlive any failure)
            self._roll_back()
            for job in group:
                job.done.set_exception(self._failure(error))
            return
        for job, (result, failed) in zip(group, outcomes, strict=True):
            if failed is None:
                job.done.set_result(result)
            else:
                job.done.set_exception(failed)

    def _attempt(self, job: _Job) -> tuple[Any, StorageError | None]:
        connection = self._connection
        connection.execute("SAVEPOINT job")
        try:
            result = job.work(connection)
        except Exception as error:
            if not connection.in_transaction:  # SQLite undid the whole group, as on a full disk
                raise
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return None, self._failure(error)
        connection.execute("RELEASE job")
        return result, None

    def _failure(self, error: Exception) -> StorageError:
        failure = storage_error(error, self._path)
        if failure is not error:
            failure.__cause__ = error
        return failure

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                return  # the next BEGIN says what is wrong


class Readers:
    """Runs read jobs in threads, each on a connection of its own and one consistent view."""

    def __init__(self, path: Path, *, count: int) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="sqlite-reader")
        self._idle: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, work: Work[T]) -> Future[T]:
        """Queue a job.

        Raises:
            StorageError: Closed.
        """
        with self._lock:
            if self._closed:
                raise closed_error(self._path)
            return self._executor.submit(self._read, work)

    def close(self) -> None:
        """Finish what was begun and close the connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._executor.shutdown(wait=True)
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def _read(self, work: Work[T]) -> T:
        try:
            connection = self._take()
        except sqlite3.Error as error:
            raise storage_error(error, self._path) from error
        try:
            connection.execute("BEGIN")
            result = work(connection)
            connection.execute("COMMIT")
        except Exception as error:
            connection.close()  # a new one knows nothing of this failure
            raise storage_error(error, self._path) from error
        self._idle.put(connection)
        return result

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return connect(self._path, read_only=True)
