"""The commands, each in a process of its own, as people and scripts meet them."""

import asyncio
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import pytest

from streams import __version__, cli
from streams.broker import EmbeddedBroker
from streams.dead_letters import dead_letter
from streams.rejects import Reason
from streams.replay import Line, replay
from streams.settings import Settings
from tests.streams.topics_for_tests import make_topic

HEAVY = ("numba", "numpy", "faust", "river", "aiokafka", "rich", "rocksdict", "uvloop")
TIMEOUT_SECONDS = 60
PROFILE = {
    "customer_id": "ada/1",
    "first_seen_ts": 1_700_000_000_000,
    "last_seen_ts": 1_700_000_060_000,
    "clicks": 1234,
    "orders": 2,
    "spend": 1234.5,
    "segment": {"name": "loyal [gold]", "distance": 0.5},
    "churn": {"probability": 0.25, "drivers": [{"feature": "recency", "value": 3}]},
    "sentiment": None,
    "top_categories": [{"category": "tea", "share": 0.75}],
}


def crm(*arguments: object, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
        env={**os.environ, **environ},
    )


def complaint(*arguments: object, status: int = 1, stdin: str = "", **environ: str) -> str:
    """Run a command that must fail, and return its one line."""
    done = crm(*arguments, stdin=stdin, **environ)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("crm-streams: ")
    return line.removeprefix("crm-streams: ")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


def test_the_overview_is_what_the_commands_say_of_themselves() -> None:
    for name, line in cli.COMMANDS.items():
        module = importlib.import_module(f"streams.cli.{name.replace('-', '_')}")
        assert module.command.name == name
        assert module.command.get_short_help_str(limit=100) == line


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for path in commands(cli.cli):
        assert cli.run([*path, "--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"Usage: {' '.join(['crm-streams', *path])}")


def test_options_say_what_they_are_for() -> None:
    for path in commands(cli.cli):
        command: click.Command = cli.cli
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), name)
            assert found is not None
            command = found
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None)


def test_the_console_script_and_the_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("crm-streams")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == crm("--version").stdout == f"crm-streams, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["worker", "--help"],
        ["demo", "--help"],
        ["topics", "create", "--help"],
        ["nope"],
    ],
)
def test_short_commands_import_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from streams.cli import run; status = run(sys.argv[1:]);"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines()[-1] == ""


def test_without_a_command_the_overview_is_shown() -> None:
    done = crm()
    assert done.returncode == 2
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "No such command 'nope'."),
        (["topics", "nope"], "No such command 'nope'. Try: crm-streams topics --help"),
        (["broker", "--port", "abc"], "Try: crm-streams broker --help"),
        (["replay"], "Missing argument 'FILE…'."),
        (["replay", "x"], "Missing option '--topic'."),
        (["replay", "x", "--format", "nope"], "--format nope is not one of online-retail"),
        (["replay", "x", "--topic", "t", "--rate", "1", "--speedup", "1"], "exclude each other"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    assert words in complaint(*arguments, status=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["topics", "list"],
        ["topics", "create"],
        ["tail", "alerts"],
        ["dead-letters", "list"],
        ["dead-letters", "replay"],
        ["replay", "x.jsonl", "--topic", "clicks"],
    ],
)
def test_a_broker_that_is_not_there_is_one_line_and_status_1(arguments: list[str]) -> None:
    url = "kafka://127.0.0.1:1"
    assert complaint(*arguments, CRM_BROKER=url) == f"no broker answers at {url}"


def test_a_bad_setting_is_one_line_that_names_its_source(tmp_path: Path) -> None:
    assert complaint("topics", "list", CRM_PARTITIONS="x").startswith("CRM_PARTITIONS=x: ")
    assert complaint("topics", "list", "--partitions", 0).startswith("--partitions=0: ")
    config = tmp_path / "crm.toml"
    config.write_text("brokr = 'x'")
    assert "brokr: there is no such setting" in complaint("topics", "list", "--config", config)


def test_topics_are_created_and_listed() -> None:
    with BrokerProcess() as url:
        listed = crm("topics", "list", "--broker", url).stdout
        assert re.search(r"^clicks +- +in +\(missing\) ", listed, re.MULTILINE)
        created = crm("topics", "create", "--broker", url, "--partitions", 4)
        assert "clicks" in created.stdout.split()
        again = crm("topics", "create", CRM_BROKER=url, CRM_PARTITIONS="4")
        assert (again.returncode, again.stdout) == (0, "")
        listed = crm("topics", "list", "--broker", url).stdout
        assert re.search(r"^clicks +4 +in +\(not 8\) ", listed, re.MULTILINE)
        assert re.search(r"^catalog +1 +in +Items", listed, re.MULTILINE)
        told = complaint("topics", "create", "--broker", url)
        assert told.startswith("topic clicks has 4 partitions, not 8")


class BrokerProcess:
    """``crm-streams broker`` on a free port."""

    def __enter__(self) -> str:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streams", "broker", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        url = self.process.stdout.readline().strip()
        assert url.startswith("kafka://127.0.0.1:"), url
        return url

    def __exit__(self, *details: object) -> None:
        self.stop(signal.SIGTERM)

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=TIMEOUT_SECONDS)
        return self.process.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_broker_runs_until_it_is_told_to_stop(number: signal.Signals) -> None:
    running = BrokerProcess()
    url = running.__enter__()
    assert crm("topics", "list", "--broker", url).returncode == 0
    assert running.stop(number) == 0
    assert complaint("topics", "list", "--broker", url) == f"no broker answers at {url}"


def test_a_port_that_is_taken_is_one_line(broker: EmbeddedBroker) -> None:
    told = complaint("broker", "--port", broker.port)
    assert told == f"port {broker.port} cannot be had: Address already in use"


async def test_what_is_replayed_is_tailed(settings: Settings, tmp_path: Path) -> None:
    await make_topic(settings, "cli-tail", 2)
    url = settings.broker
    lines = ['{"customer_id":"a","n":1}', '{"customer_id":"b","n":2}', '{"customer_id":"a","n":3}']
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(lines[:2]))
    done = crm("replay", file, "-", "--topic", "cli-tail", "--broker", url, stdin=lines[2])
    assert done.returncode == 0
    assert done.stdout.startswith("3 records to cli-tail in ")
    assert done.stderr == ""
    tail = ("tail", "cli-tail", "--from-beginning", "--broker", url)
    assert sorted(crm(*tail, "-n", 3).stdout.splitlines()) == sorted(lines)
    of_a = crm(*tail, "-n", 2, "--customer", "a").stdout.splitlines()
    assert of_a == [lines[0], lines[2]]


async def test_every_record_is_one_line_of_json(settings: Settings) -> None:
    await make_topic(settings, "cli-lines", 1)
    values = [b'{"a":\n12345678901234567890}', b"{poison\xff", b'{"a":  1.50}']
    await replay(settings, "cli-lines", 1, iter([[Line("a", value, 0) for value in values]]))
    done = crm("tail", "cli-lines", "--from-beginning", "-n", 3, CRM_BROKER=settings.broker)
    shown = done.stdout.splitlines()
    assert shown[0] == '{"a":12345678901234567890}'
    assert json.loads(shown[1]) == "{poison\ufffd"
    assert shown[2] == '{"a":  1.50}'


def head_of(topic: str, settings: Settings) -> subprocess.CompletedProcess[bytes]:
    command = f"{sys.executable} -m streams tail {topic} --from-beginning | head -n 1"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        check=True,
        timeout=TIMEOUT_SECONDS,
        env={**os.environ, "CRM_BROKER": settings.broker},
    )


async def test_a_reader_that_has_seen_enough_is_no_error(settings: Settings) -> None:
    await make_topic(settings, "cli-pipe", 1)
    lines = [Line("a", b'{"pad":"%s"}' % (b"x" * 1_000), 0) for _ in range(2_000)]
    await replay(settings, "cli-pipe", 1, iter([lines]))
    done = head_of("cli-pipe", settings)
    assert done.stdout.startswith(b'{"pad":')
    assert done.stderr == b""


def test_tail_of_a_topic_that_is_not_there_tells_how_to_make_it(settings: Settings) -> None:
    told = complaint("tail", "cli-nowhere", "--broker", settings.broker)
    assert "cli-nowhere; create the engine's with: crm-streams topics create" in told


def test_a_bad_line_is_named(settings: Settings, tmp_path: Path) -> None:
    with BrokerProcess() as url:
        crm("topics", "create", "--broker", url)
        file = tmp_path / "bad.jsonl"
        file.write_text('{"customer_id":"a"}\n{"nobody":1}\n')
        told = complaint("replay", file, "--topic", "clicks", "--broker", url)
        assert told.startswith(f"{file}: line 2: ")
        assert told.endswith("(records sent before it: 1)")


def test_dead_letters_are_listed_and_sent_again() -> None:
    with BrokerProcess() as url:
        crm("topics", "create", "--broker", url)
        settings = Settings(broker=url)
        value = b'{"half":'
        whole = _letter(7, value)
        cut = _letter(8, b"x" * 300_000)
        asyncio.run(replay(settings, "dead-letters", 1, iter([[whole, whole, cut]])))
        listed = crm("dead-letters", "list", "--broker", url).stdout.splitlines()
        assert [line.split()[1] for line in listed] == ["clicks-3-7", "clicks-3-8"]
        assert "ada" in listed[0]
        selected = crm("dead-letters", "list", "--id", "clicks-3-8", CRM_BROKER=url).stdout
        assert selected.splitlines() == listed[1:]
        assert crm("dead-letters", "list", "--topic", "chats", CRM_BROKER=url).stdout == ""
        done = crm("dead-letters", "replay", "--broker", url)
        assert done.returncode == 1
        assert done.stdout == "1 records replayed\n"
        assert "clicks-3-8 holds 262144 of the value's 300000 bytes" in done.stderr
        assert done.stderr.endswith("crm-streams: 1 dead letters cannot be replayed\n")
        tail = crm(
            "tail", "clicks", "--from-beginning", "-n", 1, "--customer", "ada", CRM_BROKER=url
        )
        assert json.loads(tail.stdout) == value.decode()


def _letter(offset: int, value: bytes) -> Line:
    _, letter = dead_letter(
        topic="clicks",
        partition=3,
        offset=offset,
        key=b"ada",
        value=value,
        reason=Reason.INVALID_JSON,
        error="truncated\nsomewhere",
        ts_ms=1_700_000_000_000,
    )
    return Line("clicks", letter, 0)


class Worker(BaseHTTPRequestHandler):
    """Answers as a worker's REST interface does."""

    def do_GET(self) -> None:
        status, body = 404, b'{"error":{"code":"unknown_customer","message":"unknown"}}'
        if self.path == "/v1/customers/ada%2F1":
            status, body = 200, json.dumps(PROFILE).encode()
        elif self.path == "/v1/customers/busy":
            status, body = 503, b'{"error":{"code":"busy","message":"still recovering"}}'
        elif self.path == "/v1/customers/odd":
            status, body = 200, b"<html>"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *values: Any) -> None:
        """Say nothing."""


@pytest.fixture
def worker() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Worker) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_customer_is_shown_for_a_person(worker: str) -> None:
    done = crm("customer", "ada/1", "--url", worker)
    assert done.returncode == 0
    for words in ("ada/1", "2023-11-14 22:13:20 UTC", "1,234", "loyal [gold]", "25%", "tea 75%"):
        assert words in done.stdout


def test_the_worker_of_the_settings_is_asked(worker: str) -> None:
    assert crm("customer", "ada/1", CRM_WEB_PORT=worker.split(":")[-1]).returncode == 0


def test_a_refusal_is_one_line(worker: str) -> None:
    assert complaint("customer", "eve", "--url", worker) == "no such customer: eve"
    assert complaint("customer", "busy", "--url", worker) == f"{worker}: still recovering"
    assert "did not answer with JSON" in complaint("customer", "odd", "--url", worker)
    assert "must start with http" in complaint("customer", "eve", "--url", "ftp://x")
    nobody = "http://127.0.0.1:1"
    assert complaint("customer", "eve", "--url", nobody).startswith(
        f"no worker answers at {nobody}"
    )
