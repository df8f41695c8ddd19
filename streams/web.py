"""What a worker answers over HTTP: health, metrics and customers' profiles."""

from __future__ import annotations

from typing import Any

import aiohttp
from faust.web import Request, Response, View
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from yarl import URL

from state.errors import StateError
from streams.app import CrmApp
from streams.engine import Engine
from streams.outcomes.profile import features_many
from streams.partitioner import partition_of
from streams.sources import CLICKS

ROUTED_HEADER = "crm-routed"


def add_pages(app: CrmApp, engine: Engine) -> None:
    """Add the pages of the contract to the worker's web server."""

    @app.page("/healthz")
    async def healthz(view: View, request: Request) -> Response:
        del request
        return view.json({"status": "alive"})

    @app.page("/readyz")
    async def readyz(view: View, request: Request) -> Response:
        del request
        if engine.is_ready:
            return view.json({"status": "ready", "partitions": sorted(engine.partitions)})
        return refuse(view, 503, "not_ready", "partitions are not assigned or not recovered yet")

    @app.page("/metrics")
    async def metrics(view: View, request: Request) -> Response:
        del request
        observe(engine)
        body = generate_latest(engine.metrics.registry)
        return view.text(body.decode(), content_type=CONTENT_TYPE_LATEST.split(";")[0])

    @app.page("/v1/customers/{customer_id}")
    async def customer(view: View, request: Request, customer_id: str) -> Response:
        number = partition_of(customer_id, engine.settings.partitions)
        if number not in engine.partitions:
            return await ask_owner(app, view, request, number)
        try:
            profile = profile_of(engine, customer_id, number)
        except StateError as error:
            return refuse(view, 503, "state_unavailable", str(error))
        if profile is None:
            return refuse(view, 404, "unknown_customer", f"no customer {customer_id!r} is known")
        return view.json(profile)


def refuse(view: View, status: int, code: str, message: str) -> Response:
    """Answer with an error in the contract's shape."""
    return view.json({"error": {"code": code, "message": message}}, status=status)


async def ask_owner(app: CrmApp, view: View, request: Request, number: int) -> Response:
    """Pass a question on to the worker that holds a partition; once, so that none goes round."""
    owners = app.router.external_topics_metadata()
    urls = [url for url, topics in owners.items() if number in topics.get(CLICKS.topic, ())]
    text = f"partition {number}, which holds this customer, is not open on any worker right now"
    if not urls or urls[0] == str(app.conf.canonical_url) or ROUTED_HEADER in request.headers:
        return refuse(view, 503, "partition_not_open", text)
    target = URL(urls[0]).join(URL(str(request.rel_url), encoded=True))
    try:
        async with app.http_client.get(target, headers={ROUTED_HEADER: "1"}) as answer:
            body, kind = await answer.text(), answer.content_type
            return view.text(body, content_type=kind, status=answer.status)
    except aiohttp.ClientError as error:
        return refuse(view, 503, "partition_not_open", f"{text}: {error}")


def profile_of(engine: Engine, customer_id: str, number: int) -> dict[str, Any] | None:
    """Return what is known of a customer, or None where nothing is.

    Parameters
    ----------
    number
        The partition that holds the customer; it must be open here.

    Raises
    ------
    StateError
        Where the customer's row is on disk and cannot be brought into memory now.
    """
    partition = engine.partitions[number]
    slots = partition.rows.find([customer_id])
    if slots[0] < 0:
        return None
    rows = partition.rows.data
    features = features_many(rows, slots, partition.now_event_ms)[0]
    profile: dict[str, Any] = {"customer_id": customer_id}
    for outcome in engine.models.outcomes:
        profile |= outcome.describe(rows[int(slots[0])], features)
    return {**profile, "forecast": None}


def observe(engine: Engine) -> None:
    """Bring the gauges that are read from the state itself up to date."""
    metrics = engine.metrics
    owed = rows = size = hits = misses = 0
    for number, partition in engine.partitions.items():
        owed += partition.lists_owed()
        rows += len(partition.rows)
        size += partition.rows.nbytes
        hits += partition.rows.hits
        misses += partition.rows.misses
        metrics.watermark.labels(number).set(partition.progress.watermark_ms / 1000)
        for topic, lag in partition.lags().items():
            metrics.lag.labels(topic, number).set(lag)
    metrics.lists_owed.set(owed)
    metrics.state_rows.labels("customers").set(rows)
    metrics.state_bytes.labels("customers").set(size)
    metrics.cache_hit_ratio.set(hits / (hits + misses) if misses else 1.0)
    metrics.ready.set(1 if engine.is_ready else 0)
