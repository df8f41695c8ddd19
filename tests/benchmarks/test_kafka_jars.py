"""Whether Apache Kafka can be had here: Java of an age, and jars that Maven copies."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import kafka_jars
from benchmarks.kafka import KafkaBroker, unavailable
from streams.errors import BrokerStartError

MKDIR = shutil.which("mkdir")
JAVA_17 = """echo 'openjdk version "17.0.15" 2025-04-15' >&2"""

Script = Callable[[str, str], None]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Put a script on a PATH that has nothing else of Java's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def write(name: str, text: str) -> None:
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    return write


@pytest.fixture
def no_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Say that the jars lie where there are none; the pom is a copy."""
    pom = tmp_path / "kafka" / "pom.xml"
    pom.parent.mkdir()
    shutil.copy(kafka_jars.POM, pom)
    monkeypatch.setattr(kafka_jars, "POM", pom)
    monkeypatch.setattr(kafka_jars, "LIBRARIES", pom.parent / "libs")
    return pom.parent / "libs"


async def test_without_java_there_is_a_reason_and_the_start_gives_it(script: Script) -> None:
    reason = unavailable()
    assert reason is not None
    assert "Java 17" in reason
    with pytest.raises(BrokerStartError) as raised:
        await KafkaBroker().start()
    assert str(raised.value) == reason


def test_a_java_that_is_too_old_is_named(script: Script) -> None:
    script("java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    assert "11" in str(unavailable())


def test_a_java_that_does_not_run_is_none(script: Script) -> None:
    script("java", "echo 'Unable to locate a Java Runtime.' >&2; exit 1")
    assert "none" in str(unavailable())


def test_maven_is_needed_only_where_jars_are_missing(script: Script, no_jars: Path) -> None:
    script("java", JAVA_17)
    assert "mvn" in str(unavailable())
    no_jars.mkdir()
    (no_jars / "copied").touch()
    assert unavailable() is None


def test_jars_are_copied_once_and_anew_when_the_pom_is_newer(
    script: Script, no_jars: Path, tmp_path: Path
) -> None:
    script("java", JAVA_17)
    calls = tmp_path / "calls"
    script("mvn", f'echo "$@" >> {calls}\n{MKDIR} {no_jars}\necho > {no_jars}/kafka.jar')
    kafka_jars.copy_jars()
    kafka_jars.copy_jars()
    assert len(calls.read_text().splitlines()) == 1
    (no_jars / "of-an-older-kafka.jar").touch()
    newer = (no_jars / "copied").stat().st_mtime + 1
    os.utime(kafka_jars.POM, (newer, newer))
    kafka_jars.copy_jars()
    assert len(calls.read_text().splitlines()) == 2
    assert not (no_jars / "of-an-older-kafka.jar").exists()


def test_where_maven_fails_its_own_words_are_told_and_nothing_counts_as_copied(
    script: Script, no_jars: Path
) -> None:
    script("java", JAVA_17)
    script("mvn", f"{MKDIR} {no_jars}\necho '[ERROR] Unknown host'\nexit 1")
    for _ in range(2):
        with pytest.raises(BrokerStartError, match=r"cannot be copied: \[ERROR\] Unknown host"):
            kafka_jars.copy_jars()
