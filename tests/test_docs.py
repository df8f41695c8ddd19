"""The documentation says what is true: its commands run, its links lead somewhere."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from streams.admin import create_topics
from streams.broker import EmbeddedBroker
from streams.cli import cli
from streams.settings import DECLARED, ENVIRONMENT_PREFIX, Settings
from tests.streams.workers import WorkerProcess

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
COMMAND = re.compile(r"^\$ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def commands(page: Path) -> list[str]:
    return COMMAND.findall(page.read_text())


def crm_calls() -> Iterator[tuple[str, list[str]]]:
    """Yield (page, arguments) of every call of crm-streams in the documentation."""
    for page in PAGES:
        for line in commands(page):
            words = shlex.split(line)
            if "crm-streams" in words:
                yield page.name, words[words.index("crm-streams") + 1 :]


@pytest.mark.parametrize(("page", "arguments"), list(crm_calls()), ids=lambda value: str(value))
def test_every_documented_call_is_one_that_the_command_line_takes(
    page: str, arguments: list[str]
) -> None:
    group: click.Command = cli
    context = click.Context(cli)
    while isinstance(group, click.Group):
        name, command, arguments = group.resolve_command(context, arguments)
        assert command is not None, f"{page}: no command {name}"
        group, context = command, click.Context(command, parent=context, info_name=name)
    group.parse_args(context, list(arguments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_make_targets_that_the_documentation_names_exist() -> None:
    named = {
        words[1]
        for page in PAGES
        for words in map(shlex.split, commands(page))
        if words[0] == "make"
    }
    assert named
    for target in named:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def running_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start what the README has started before its commands are typed."""
    broker = EmbeddedBroker()
    asyncio.run(broker.start())
    asyncio.run(create_topics(Settings(broker=broker.url)))
    worker = WorkerProcess(broker.url, tmp_path_factory.mktemp("readme") / "data", partitions=8)
    worker.start().ready()
    yield {
        **os.environ,
        "CRM_BROKER": broker.url,
        "CRM_WEB_PORT": str(worker.port),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    assert worker.stop() == 0
    asyncio.run(broker.stop())


def test_the_readmes_tour_works_as_typed(running_shop: dict[str, str]) -> None:
    typed = [
        line
        for line in commands(ROOT / "README.md")
        if re.search(r"crm-streams (replay -|tail|customer|topics)|curl", line)
    ]
    assert len(typed) == 6
    said = {}
    for line in typed:
        line = line.replace("127.0.0.1:6066", f"127.0.0.1:{running_shop['CRM_WEB_PORT']}")
        finished = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            env=running_shop,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert finished.returncode == 0, f"{line}: {finished.stderr}"
        said[line] = finished.stdout
    answers = "\n".join(said.values())
    assert '"customer_id": "ada"' in answers or '"customer_id":"ada"' in answers
    assert 'crm_events_total{topic="clicks"} 1.0' in answers


def settings_page() -> str:
    """Write docs/settings.md from where the settings are declared."""
    lines = [
        "# Settings",
        "",
        "From flags, then the environment, then a TOML file (`--config`), then these defaults. A",
        "flag is the setting's name with dashes; not every command has every flag.",
        "",
        "| setting | environment | default | what it is |",
        "|---|---|---|---|",
    ]
    for name, declared in DECLARED.items():
        shown = "" if declared.default is None else f"`{declared.default}`"
        variable = f"`{ENVIRONMENT_PREFIX}{name.upper()}`"
        lines.append(f"| `{name}` | {variable} | {shown} | {declared.about.help} |")
    return "\n".join(lines) + "\n"


def test_the_page_of_settings_lists_what_is_declared() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), (
        "write it anew: python -m tests.test_docs > docs/settings.md"
    )


if __name__ == "__main__":
    sys.stdout.write(settings_page())
