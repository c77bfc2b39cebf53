"""A real Neo4j Community server for tests, from the jars that Maven Central has of it.

MEMORY_TEST_NEO4J, a URI, with NEO4J_USERNAME and NEO4J_PASSWORD, names one that runs already; what
is in it is deleted. MEMORY_TEST_NEO4J_VERSIONS, such as "5.26.30 2026.08.1", names the versions to
test; without it that is the newest one that can be had.
"""

import fcntl
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from neo4j import Driver, GraphDatabase
from neo4j.exceptions import ServiceUnavailable, TransientError

VERSIONS = ("5.26.30", "2026.08.1")
RUNNING = "MEMORY_TEST_NEO4J"
REQUIRED = "MEMORY_TEST_NEO4J_VERSIONS"
DEADLINE_SECONDS = 180

_JARS = Path.home() / ".cache" / "ai-memory-service" / "neo4j"

# Of the database's and of Java itself: https://neo4j.com/docs/operations-manual, "System
# requirements" and "JVM additional settings"; the class that starts it was renamed in between.
_JAVA_VERSIONS = {"5.26.30": (17, 21), "2026.08.1": (21, 10**6)}
_MAIN_CLASS = {
    "5.26.30": "org.neo4j.server.CommunityEntryPoint",
    "2026.08.1": "org.neo4j.server.Neo4jCommunity",
}
_ADMIN_CLASS = "org.neo4j.cli.AdminTool"
_HEAP = "512m"
_JVM_FLAGS = (
    f"-Xms{_HEAP}",
    f"-Xmx{_HEAP}",
    "-XX:+UseG1GC",
    # These servers live for minutes: what the optimizing compiler costs, half of all the time that
    # they compute, never comes back.
    "-XX:TieredStopAtLevel=1",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dlog4j2.disable.jmx=true",
    "-Dfile.encoding=UTF-8",
    "--add-modules=jdk.incubator.vector",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
)

# The waits at the end of Bolt are 5 s each where they are not set.
_CONFIGURATION = """\
server.default_listen_address=127.0.0.1
server.bolt.listen_address=127.0.0.1:{port}
server.bolt.advertised_address=127.0.0.1:{port}
server.http.enabled=false
server.https.enabled=false
server.memory.heap.initial_size={heap}
server.memory.heap.max_size={heap}
server.memory.pagecache.size=256m
dbms.usage_report.enabled=false
db.tx_log.rotation.retention_policy=keep_none
internal.server.bolt.thread_pool_shutdown_wait_time=0s
internal.server.bolt.connection_shutdown_wait_time=0s
"""

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>local</groupId><artifactId>jars</artifactId><version>1</version>
<dependencies><dependency>
<groupId>org.neo4j</groupId><artifactId>neo4j</artifactId><version>{version}</version>
</dependency></dependencies>
</project>
"""
_COPY_DEPENDENCIES = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

# Runs the server, and kills it as soon as the pipe that is its input has no writer any more: the
# process of the tests has ended, however it did. Prints the server's process id.
_WATCHED = """
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
echo $server
exec >/dev/null
{ read -r line <&3; kill -9 $server; } &
watchdog=$!
wait $server
kill $watchdog
"""


def versions_to_test() -> list[str]:
    """What running_neo4j is to start for the tests: the newest version that can be had here.

    Or those that MEMORY_TEST_NEO4J_VERSIONS names, whether they can be had or not; or
    MEMORY_TEST_NEO4J, where that is set.
    """
    if RUNNING in os.environ:
        return [RUNNING]
    if REQUIRED in os.environ:
        return os.environ[REQUIRED].split()
    return [version for version in VERSIONS if not _obstacle(version)][-1:]


def why_unavailable() -> str:
    """Why there is no Neo4j, in one line; empty where there is one."""
    return "" if versions_to_test() else "; ".join(map(_obstacle, VERSIONS))


@contextmanager
def running_neo4j(version: str, folder: Path) -> Iterator["Neo4jServer"]:
    """A server of one of the available versions, with its data in an empty folder."""
    if version == RUNNING:
        yield Neo4jServer(
            RUNNING,
            os.environ[RUNNING],
            os.environ.get("NEO4J_USERNAME", "neo4j"),
            os.environ.get("NEO4J_PASSWORD", ""),
        )
        return
    server = _OwnServer(version, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def wipe(server: "Neo4jServer") -> None:
    """Delete all nodes, indexes and constraints."""
    with connected(server) as driver, driver.session() as session:
        for name in session.run("SHOW CONSTRAINTS YIELD name").value():
            session.run(f"DROP CONSTRAINT `{name}`").consume()
        for name in session.run(
            "SHOW INDEXES YIELD name, type WHERE type <> 'LOOKUP' RETURN name"
        ).value():
            session.run(f"DROP INDEX `{name}`").consume()
        # In pieces: a transaction has room for some 10,000 memories on this heap, and a node may
        # have any number of relationships.
        for piece in ("()-[piece]->() WITH piece LIMIT 20000", "(piece) WITH piece LIMIT 5000"):
            delete = f"MATCH {piece} DELETE piece RETURN count(*) AS deleted"
            while session.run(delete).value() != [0]:
                pass


@contextmanager
def connected(server: "Neo4jServer") -> Iterator[Driver]:
    """A driver of the server."""
    auth = (server.username, server.password)
    with GraphDatabase.driver(server.uri, auth=auth) as driver:
        yield driver


class Neo4jServer:
    """A server, and how to reach it; only one that the tests have started can be stopped."""

    def __init__(self, version: str, uri: str, username: str, password: str) -> None:
        self.version = version
        self.uri = uri
        self.username = username
        self.password = password

    def start(self) -> None:
        """Start it on the same data and port; returns when it answers."""
        raise NotImplementedError(f"{self.uri} was not started here")

    def stop(self) -> None:
        """Stop it in good order."""
        raise NotImplementedError(f"{self.uri} was not started here")

    def kill(self) -> None:
        """End it as kill -9 does."""
        raise NotImplementedError(f"{self.uri} was not started here")

    def pause(self) -> None:
        """Let it answer nothing, with its connections open, until it is told to resume."""
        raise NotImplementedError(f"{self.uri} was not started here")

    def resume(self) -> None:
        """Let it go on."""
        raise NotImplementedError(f"{self.uri} was not started here")

    def administer(self, *arguments: str) -> None:
        """Run neo4j-admin on its files, while it is stopped."""
        raise NotImplementedError(f"{self.uri} was not started here")


class _OwnServer(Neo4jServer):
    def __init__(self, version: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        super().__init__(
            version, f"bolt://127.0.0.1:{port}", "neo4j", password=secrets.token_urlsafe(16)
        )
        self._folder = folder.resolve()
        self._port = port
        self._has_password = False
        self._watched: subprocess.Popen[str] | None = None
        self._process_id = 0

    def start(self) -> None:
        home = self._folder
        (home / "conf").mkdir(parents=True, exist_ok=True)
        configuration = _CONFIGURATION.format(port=self._port, heap=_HEAP)
        (home / "conf" / "neo4j.conf").write_text(configuration)
        java, java_version = _java(self.version) or ("java", 0)
        command = [
            java,
            *_JVM_FLAGS,
            *(["--enable-native-access=ALL-UNNAMED"] if java_version >= 22 else []),
            *(["--sun-misc-unsafe-memory-access=allow"] if java_version >= 24 else []),
            "-cp",
            f"{_jars(self.version)}/*",
            _MAIN_CLASS[self.version],
            f"--home-dir={home}",
            f"--config-dir={home / 'conf'}",
        ]
        with (home / "console.log").open("a") as log:
            self._watched = subprocess.Popen(
                ["sh", "-c", _WATCHED, "sh", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # the terminal's Ctrl-C is for the tests
            )
        assert self._watched.stdout
        self._process_id = int(self._watched.stdout.readline())
        self._wait_until_it_answers()

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        os.kill(self._process_id, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._process_id, signal.SIGCONT)

    def administer(self, *arguments: str) -> None:
        java, _ = _java(self.version) or ("java", 0)
        home = {"NEO4J_HOME": str(self._folder), "NEO4J_CONF": str(self._folder / "conf")}
        subprocess.run(
            [java, *_JVM_FLAGS, "-cp", f"{_jars(self.version)}/*", _ADMIN_CLASS, *arguments],
            env=os.environ | home,
            check=True,
            capture_output=True,
        )

    def _end(self, signum: signal.Signals) -> None:
        if self._watched is None:
            return
        with self._watched as watched:
            if watched.poll() is None:
                os.kill(self._process_id, signum)
                try:
                    watched.wait(DEADLINE_SECONDS)
                finally:
                    self._watched = None

    def _wait_until_it_answers(self) -> None:
        assert self._watched
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            log = self._folder / "console.log"
            assert self._watched.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                self._greet()
            except (OSError, ServiceUnavailable, TransientError):
                time.sleep(0.1)
            else:
                return

    def _greet(self) -> None:
        socket.create_connection(("127.0.0.1", self._port), timeout=5).close()
        if not self._has_password:
            first = Neo4jServer(self.version, self.uri, self.username, password="neo4j")
            with connected(first) as driver:
                driver.execute_query(
                    "ALTER CURRENT USER SET PASSWORD FROM 'neo4j' TO $password",
                    password=self.password,
                    database_="system",
                )
            self._has_password = True
        with connected(self) as driver:
            driver.execute_query("RETURN 1")


@cache
def _obstacle(version: str) -> str:
    oldest, newest = _JAVA_VERSIONS[version]
    if _java(version) is None:
        suffix = f" to {newest}" if newest < 10**6 else " or newer"
        return f"Neo4j {version} needs Java {oldest}{suffix}"
    if not (_JARS / version).is_dir() and not shutil.which("mvn"):
        return f"Neo4j {version} is not in {_JARS}, and to get it needs Maven (mvn)"
    return ""


@cache
def _java(version: str) -> tuple[str, int] | None:
    """A Java that this version of Neo4j runs on, and its version."""
    oldest, newest = _JAVA_VERSIONS[version]
    homes = [os.environ[name] for name in ("JAVA_HOME",) if name in os.environ]
    found = [f"{home}/bin/java" for home in homes]
    found += filter(None, [shutil.which("java")])
    found += sorted(map(str, Path("/usr/lib/jvm").glob("*/bin/java")))
    for java in found:
        if Path(java).is_file() and oldest <= (java_version := _java_version(java)) <= newest:
            return java, java_version
    return None


@cache
def _java_version(java: str) -> int:
    command = [java, "-XshowSettings:properties", "-version"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    version = re.search(r"java\.specification\.version = (\d+)", told)
    return int(version[1]) if version else 0


def _jars(version: str) -> Path:
    """The folder of this version's jars, which are downloaded once."""
    folder = _JARS / version
    _JARS.mkdir(parents=True, exist_ok=True)
    with (_JARS / f"{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        print(f"downloading Neo4j {version} into {folder} (150 MB)", file=sys.stderr, flush=True)
        partial = _JARS / f"{version}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        (partial / "pom.xml").write_text(_POM.format(version=version))
        subprocess.run(
            [
                *(
                    "mvn",
                    "--quiet",
                    "--batch-mode",
                    "-Dstyle.color=never",
                    f"--file={partial / 'pom.xml'}",
                ),
                _COPY_DEPENDENCIES,
                "-DincludeScope=runtime",
                f"-DoutputDirectory={partial / 'jars'}",
            ],
            check=True,
            stdout=sys.stderr,
        )
        (partial / "jars").rename(folder)
        shutil.rmtree(partial)
    return folder
