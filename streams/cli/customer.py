"""``crm-streams customer``."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from streams.cli.options import settings_options
from streams.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

_TIMEOUT_SECONDS = 10.0
_MISSING = "-"


@click.command("customer")
@click.argument("customer", metavar="ID")
@click.option("--url", metavar="U", help="A worker's REST interface, such as http://host:6066.")
@settings_options("web_host", "web_port")
def command(settings: Settings, customer: str, url: str | None) -> None:
    """Show one customer's profile.

    Any worker can be asked; without --url it is the one on this machine.
    """
    profile = fetch_profile(url or f"http://{settings.web_host}:{settings.web_port}", customer)
    from rich.console import Console

    Console().print(card(profile))


def fetch_profile(url: str, customer: str) -> dict[str, Any]:
    """Ask a worker for a customer's profile.

    Raises
    ------
    RequestError
        Nobody answers, or not with a profile; the customer may be unknown.
    """
    import json
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import quote
    from urllib.request import ProxyHandler, build_opener

    from streams.errors import RequestError

    if not url.startswith(("http://", "https://")):
        raise RequestError(f"{url}: must start with http:// or https://")
    address = f"{url.rstrip('/')}/v1/customers/{quote(customer, safe='')}"
    try:
        # Workers are inside; a proxy from the environment is for what is outside.
        with build_opener(ProxyHandler({})).open(address, timeout=_TIMEOUT_SECONDS) as answer:
            profile = json.load(answer)
    except HTTPError as error:
        with error:
            raise RequestError(_refusal(url, customer, error.code, error.read())) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RequestError(f"no worker answers at {url} ({reason})") from error
    except ValueError as error:
        raise RequestError(f"{url} did not answer with JSON; is it a worker?") from error
    if not isinstance(profile, dict) or "customer_id" not in profile:
        raise RequestError(f"{url} did not answer with a profile; is it a worker?")
    return profile


def _refusal(url: str, customer: str, status: int, body: bytes) -> str:
    """Tell what a refusal says."""
    import json

    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        message = f"status {status}"
    return f"no such customer: {customer}" if status == 404 else f"{url}: {message}"


def card(profile: dict[str, Any]) -> "Table":
    """Lay out a profile for a person.

    Parameters
    ----------
    profile
        As ``GET /v1/customers/{id}`` answers; what is absent is shown as a dash.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Customer {escape(str(profile['customer_id']))}", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for label, value in _rows(profile):
        table.add_row(label, escape(value))
    return table


def _rows(profile: dict[str, Any]) -> list[tuple[str, str]]:
    segment = profile.get("segment") or {}
    churn = profile.get("churn") or {}
    categories = profile.get("top_categories") or []
    return [
        ("First seen", _time(profile.get("first_seen_ts"))),
        ("Last seen", _time(profile.get("last_seen_ts"))),
        ("Last order", _number(profile.get("recency_days"), "{:,.1f} days ago")),
        ("Clicks", _number(profile.get("clicks"))),
        ("Carts", _number(profile.get("carts"))),
        ("Orders", _number(profile.get("orders"))),
        ("Items bought", _number(profile.get("items_bought"))),
        ("Spend", _number(profile.get("spend"), "{:,.2f}")),
        ("Chats", _number(profile.get("chats"))),
        ("Sentiment", _sentiment(profile.get("sentiment"))),
        ("Segment", str(segment.get("name") or _MISSING)),
        ("Churn risk", _number(churn.get("probability"), "{:.0%}")),
        ("  because of", _drivers(churn.get("drivers") or [])),
        ("Categories", ", ".join(_share(each) for each in categories) or _MISSING),
    ]


def _number(value: object, shape: str = "{:,}") -> str:
    return shape.format(value) if isinstance(value, int | float) else _MISSING


def _time(ts_ms: object) -> str:
    if not isinstance(ts_ms, int | float):
        return _MISSING
    try:
        return f"{datetime.fromtimestamp(ts_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return str(ts_ms)


def _sentiment(value: object) -> str:
    """Show a number, or an object that holds one."""
    if isinstance(value, dict):
        value = value.get("score", value.get("sentiment"))
    return _number(value, "{:+.2f}")


def _share(category: dict[str, Any]) -> str:
    return f"{category.get('category')} {_number(category.get('share'), '{:.0%}')}"


def _drivers(drivers: list[dict[str, Any]]) -> str:
    return ", ".join(str(driver.get("feature")) for driver in drivers) or _MISSING
