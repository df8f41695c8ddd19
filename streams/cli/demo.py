"""``crm-streams demo``."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from streams.demo import Progress

REDRAW_SECONDS = 0.25


@click.command("demo")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="End after this time.")
@click.option("--events", type=click.IntRange(min=1), help="End after this many events.")
@click.option("--rate", type=click.FloatRange(min=1), help="Events per second; 2500 if not given.")
@click.option(
    "--web-port",
    type=click.IntRange(0, 65_535),
    default=6066,
    show_default=True,
    help="The worker's REST port; 0 takes a free one.",
)
def command(seconds: float | None, events: int | None, rate: float | None, web_port: int) -> None:
    """Show the whole engine on this machine.

    Starts a broker, creates the topics, starts a worker, sends a shop's traffic (four thousand
    events make a day) and shows what comes out. Without --seconds and --events it runs until
    Ctrl-C. Leaves nothing behind.
    """
    from rich.console import Console

    from streams.demo import DEFAULT_RATE, Limits, Progress

    limits = Limits(seconds, events, rate or DEFAULT_RATE)
    progress, console = Progress(), Console(stderr=True)
    asyncio.run(_run(limits, web_port, progress, console))
    click.echo(summary(progress))


async def _run(limits: Any, web_port: int, progress: Progress, console: Console) -> None:
    """Run the demo beside its view; Ctrl-C and SIGTERM end the traffic, not the program."""
    from rich.live import Live

    from streams.demo import run_demo

    demo = asyncio.ensure_future(run_demo(limits, web_port, progress))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, demo.cancel)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not demo.done():
            if console.is_terminal:
                live.update(view(progress), refresh=True)
            await asyncio.wait({demo}, timeout=REDRAW_SECONDS)
    with contextlib.suppress(asyncio.CancelledError):
        await demo
    progress.stage = "done"


def view(progress: Progress) -> RenderableType:
    """Draw what the demo has seen so far."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(
        ("crm-streams demo", "bold"),
        f"   {progress.stage}\n",
        f"events/s {progress.events_per_second:,.0f}   applied {progress.applied:,} of "
        f"{progress.sent:,}   event to list p50 {_ms(progress, 0.5)}  p99 {_ms(progress, 0.99)}\n",
        (f"{progress.web_url}/metrics   {progress.broker_url}   Ctrl-C ends", "dim"),
    )
    counts = "   ".join(f"{topic} {count:,}" for topic, count in progress.outputs.items())
    lists = Table("customer", "recommended now", "because", title="newest recommendations")
    for record in progress.recommendations:
        items = record["items"]
        shown = ", ".join(item["item_id"] for item in items[:4])
        lists.add_row(record["customer_id"], shown, "; ".join(items[0]["reasons"]) if items else "")
    alerts = Table("customer", "alert", "score", "what to do", title="newest alerts")
    for record in progress.alerts:
        alerts.add_row(
            record["customer_id"],
            record["kind"],
            f"{record['score']:.2f}",
            record["suggested_action"],
        )
    return Group(head, counts, lists, alerts)


def _ms(progress: Progress, quantile: float) -> str:
    seconds = progress.latency_seconds(quantile)
    return "-" if math.isnan(seconds) else f"{seconds * 1000:,.0f} ms"


def summary(progress: Progress) -> str:
    """Return the closing lines: what went in, what came out, how fast."""
    outputs = progress.outputs
    seconds = max(time.monotonic() - progress.started, 1e-3)
    lines = {
        "events in": f"{progress.applied:,}",
        "recommendations": f"{outputs['recommendations']:,}",
        "alerts": f"{outputs['alerts']:,}",
        "segment changes": f"{outputs['segments']:,}",
        "chat insights": f"{outputs['chat-insights']:,}",
        "dead letters": f"{outputs['dead-letters']:,}",
        "events/s": f"{progress.applied / seconds:,.0f}",
        "event to list": f"p50 {_ms(progress, 0.5)}, p99 {_ms(progress, 0.99)}",
    }
    return "\n".join(f"{name:<16} {value}" for name, value in lines.items())
