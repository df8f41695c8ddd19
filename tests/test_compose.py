"""What can be told about docker-compose.yml and its neighbours without running them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.cli import COMMANDS, cli
from streams.settings import DECLARED, ENVIRONMENT_PREFIX, load

ROOT = Path(__file__).resolve().parents[1]
SERVICES = ("kafka", "topics", "worker", "prometheus")
OURS = "crm-streams"


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found = read("docker-compose.yml")["services"]
    assert isinstance(found, dict)
    return found


def test_the_services_are_those_that_are_described(services: dict[str, Any]) -> None:
    assert tuple(services) == SERVICES


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_built_here_or_pinned(services: dict[str, Any], name: str) -> None:
    service = services[name]
    if "build" in service:
        assert (ROOT / service["build"] / "Dockerfile").is_file()
        assert service["image"] == OURS
    else:
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_of_the_host_is_on_loopback(services: dict[str, Any], name: str) -> None:
    for port in services[name].get("ports", []):
        assert str(port).startswith("127.0.0.1:")


def test_commands_exist(services: dict[str, Any]) -> None:
    for service in services.values():
        if "build" not in service:
            continue
        first, *rest = service["command"]
        assert first in COMMANDS
        if rest:
            group: Any = cli.get_command(
                cli.make_context("", ["--help"], resilient_parsing=True), first
            )
            assert rest[0] in group.commands


def test_environments_are_settings_with_good_values(services: dict[str, Any]) -> None:
    for service in services.values():
        ours = {
            name: value
            for name, value in service.get("environment", {}).items()
            if name.startswith(ENVIRONMENT_PREFIX)
        }
        for name in ours:
            assert name.removeprefix(ENVIRONMENT_PREFIX).lower() in DECLARED
        load({}, ours)


def test_what_services_depend_on_is_there(services: dict[str, Any]) -> None:
    for service in services.values():
        for name in service.get("depends_on", []):
            assert name in services


def test_workers_find_the_broker_by_a_listener_that_it_has(services: dict[str, Any]) -> None:
    advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    inside = dict(each.split("://") for each in advertised.split(","))["INSIDE"]
    for name in ("topics", "worker"):
        assert load({}, services[name]["environment"]).bootstrap_servers() == [inside]


def test_mounted_files_are_there(services: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service.get("volumes", []):
            source = str(volume).split(":")[0]
            assert not source.startswith("./") or (ROOT / source).is_file()


def test_prometheus_scrapes_the_workers_port(services: dict[str, Any]) -> None:
    (job,) = read("deploy/prometheus.yml")["scrape_configs"]
    (discovery,) = job["dns_sd_configs"]
    assert discovery["names"] == ["worker"]
    (port,) = services["worker"]["ports"]
    assert str(port).endswith(f":{discovery['port']}")
    assert discovery["port"] == DECLARED["web_port"].default


def test_the_image_is_pinned_and_runs_without_rights() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert bases
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases)
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users
    assert users[-1] not in {"root", "0"}
    assert any("/readyz" in line for line in lines)


def test_the_image_copies_only_what_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source
