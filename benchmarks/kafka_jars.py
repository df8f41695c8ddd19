"""The jars of Apache Kafka: there, or copied by Maven; and how to run what is in them.

``tests/kafka/pom.xml`` says which they are. They lie beside it, and are copied again only where
the pom is newer.
"""

import fcntl
import re
import shutil
import subprocess
from pathlib import Path

from streams.errors import BrokerStartError

JAVA_VERSION = 17
"""The oldest Java that runs a broker of Apache Kafka 4."""

POM = Path(__file__).resolve().parents[1] / "tests" / "kafka" / "pom.xml"
LIBRARIES = POM.parent / "libs"

_COPIED = "copied"
"""An empty file beside the jars, written last: all of them are there."""
_MAVEN_TIMEOUT_SECONDS = 600.0
_LOG_BYTES = 65_536
_LAST_LINES = 8

_OPTIONS = (
    "-Xms64m",
    "-Xmx768m",
    # It lives for a minute or two, and would spend them on compiling itself better.
    "-XX:TieredStopAtLevel=1",
    # Half dead is worse than dead: who waits for it can see that it ended.
    "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)


def java_command(name: str, *arguments: str) -> list[str]:
    """Return the command line that runs a class of Kafka's."""
    return ["java", *_OPTIONS, "-cp", str(LIBRARIES / "*"), name, *arguments]


def unavailable() -> str | None:
    """Tell why Kafka cannot be had on this machine, in one line; None where it can."""
    found = _java_version()
    if found is None or found < JAVA_VERSION:
        has = "none is on the PATH" if found is None else f"the one on the PATH is {found}"
        return f"Apache Kafka needs Java {JAVA_VERSION} or newer, and {has}"
    if not _jars_are_there() and shutil.which("mvn") is None:
        return "the jars of Apache Kafka are copied by Maven, and no mvn is on the PATH"
    return None


def copy_jars() -> None:
    """Have Maven copy the jars of Kafka where they are missing, or older than the pom; blocks.

    Raises
    ------
    BrokerStartError
        Without Java or Maven, or where Maven fails, as without a network.
    """
    reason = unavailable()
    if reason is not None:
        raise BrokerStartError(reason)
    # Another process may be at it.
    with POM.open() as pom:
        fcntl.flock(pom, fcntl.LOCK_EX)
        if _jars_are_there():
            return
        # Jars of an earlier pom would be loaded beside the ones of this.
        shutil.rmtree(LIBRARIES, ignore_errors=True)
        command = ["mvn", "-q", "-B", "-Dstyle.color=never", "-f", str(POM)]
        command += ["dependency:copy-dependencies", f"-DoutputDirectory={LIBRARIES}"]
        run_to_end("the jars of Kafka cannot be copied", command, _MAVEN_TIMEOUT_SECONDS)
        (LIBRARIES / _COPIED).touch()


def last_lines(log: bytes) -> str:
    r"""Return the end of what a Java program printed as one line, stack traces left out.

    Examples
    --------
    >>> last_lines(b"ERROR Exiting\njava.net.BindException: in use\n\tat Net.bind\n")
    'ERROR Exiting | java.net.BindException: in use'
    """
    lines = log[-_LOG_BYTES:].decode("utf-8", "replace").splitlines()
    told = [line for line in lines if line and not line[0].isspace()]
    return " | ".join(told[-_LAST_LINES:]) or "it printed nothing"


def run_to_end(failure: str, command: list[str], timeout_seconds: float) -> None:
    """Run a command to its end; blocks.

    Raises
    ------
    BrokerStartError
        Where it fails: `failure`, and the end of what the command said.
    """
    try:
        subprocess.run(  # noqa: S603 - Java and Maven with our own values
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_seconds,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise BrokerStartError(f"{failure}: {last_lines(error.stdout)}") from error
    except subprocess.TimeoutExpired as error:
        raise BrokerStartError(f"{failure}: not done in {timeout_seconds:g} seconds") from error


def _java_version() -> int | None:
    """Return the major version of the Java on the PATH; None where there is none that runs."""
    java = shutil.which("java")
    if java is None:
        return None
    ask = [java, "-version"]
    said = subprocess.run(ask, capture_output=True, text=True, check=False)  # noqa: S603 - harmless
    match = re.search(r'version "(\d+)', said.stderr)
    return int(match[1]) if match else None


def _jars_are_there() -> bool:
    copied = LIBRARIES / _COPIED
    return copied.exists() and copied.stat().st_mtime >= POM.stat().st_mtime
