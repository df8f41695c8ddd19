"""Every Prometheus series of the engine, declared once.

Names, labels and units are those of the contract. A `Metrics` has a registry of its own, so that
several engines can live in one process.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
)  # fmt: skip
BATCH_SIZE_BUCKETS = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2000, 5000)


class Metrics:
    """The engine's series, by the names an operator sees.

    Parameters
    ----------
    version
        Shown by ``crm_build_info``.

    Examples
    --------
    >>> metrics = Metrics(version="1.0")
    >>> metrics.events.labels("clicks").inc(3)
    >>> metrics.registry.get_sample_value("crm_events_total", {"topic": "clicks"})
    3.0
    """

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._declare_events()
        self._declare_outputs()
        self._declare_state()
        self._declare_models()
        build = Info("crm_build", "Version of the engine", registry=self.registry)
        build.info({"version": version})

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=LATENCY_BUCKETS, registry=self.registry)

    def _declare_events(self) -> None:
        self.events = self._counter("crm_events", "Events applied", "topic")
        self.rejected = self._counter(
            "crm_events_rejected", "Records that became dead letters", "topic", "stage", "reason"
        )
        self.late = self._counter("crm_events_late", "Events behind the watermark", "topic")
        self.forwarded = self._counter(
            "crm_events_forwarded", "Records re-published in their customer's partition", "topic"
        )
        self.duplicates = self._counter(
            "crm_events_duplicate", "Events seen before and not applied again", "topic"
        )
        self.batch_size = Histogram(
            "crm_batch_size", "Records in a chunk", buckets=BATCH_SIZE_BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self.batch_seconds = self._seconds(
            "crm_batch_seconds", "Decoding and applying a chunk", "agent"
        )
        self.lag = self._gauge("crm_consumer_lag", "Records not yet applied", "topic", "partition")
        self.watermark = self._gauge(
            "crm_watermark_seconds", "Event time up to which windows are closed", "partition"
        )

    def _declare_outputs(self) -> None:
        self.event_to_output = self._seconds(
            "crm_event_to_output_seconds",
            "From the broker's timestamp of the newest event in an output to its acknowledgement",
            "output",
        )
        self.outputs = self._counter("crm_outputs", "Records published", "topic")
        self.lists_owed = self._gauge("crm_lists_owed", "Customers whose list is not yet sent")
        self.alerts = self._counter("crm_alerts", "Alerts raised", "kind", "severity")

    def _declare_state(self) -> None:
        self.checkpoint_seconds = self._seconds(
            "crm_checkpoint_seconds", "One partition's checkpoint"
        )
        self.checkpoint_rows = self._counter("crm_checkpoint_rows", "Rows written by checkpoints")
        self.checkpoint_failures = self._counter(
            "crm_checkpoint_failures", "Checkpoints that failed"
        )
        self.recovery_seconds = self._seconds("crm_recovery_seconds", "Opening a partition")
        self.recovery_rows = self._counter("crm_recovery_rows", "Rows read back at opening")
        self.recovery_progress = self._gauge(
            "crm_recovery_progress", "Share of a partition's state read back, 0 to 1", "partition"
        )
        self.state_rows = self._gauge("crm_state_rows", "Rows in memory", "table")
        self.state_bytes = self._gauge("crm_state_bytes", "Bytes of rows in memory", "table")
        self.cache_hit_ratio = self._gauge(
            "crm_state_cache_hit_ratio", "Share of row look-ups answered from memory"
        )
        self.rebalances = self._counter("crm_rebalances", "Rebalances of the consumer group")
        self.ready = self._gauge("crm_worker_ready", "1 when assigned and recovered, else 0")

    def _declare_models(self) -> None:
        self.model_quality = self._gauge(
            "crm_model_quality", "Prequential quality: tested, then learned", "model", "metric"
        )
        self.model_updates = self._counter(
            "crm_model_updates", "Examples that a model learned", "model"
        )
        self.model_syncs = self._counter(
            "crm_model_syncs", "Deltas of models exchanged with other workers", "direction"
        )
        self.model_sync_bytes = self._counter(
            "crm_model_sync_bytes", "Bytes of deltas and snapshots of models", "direction"
        )
        self.model_sync_gaps = self._counter(
            "crm_model_sync_gaps", "Deltas of other workers that never came"
        )
        self.model_sync_refused = self._counter(
            "crm_model_sync_refused", "Deltas of other workers that did not fit"
        )
        self.model_staleness = self._gauge(
            "crm_model_staleness_seconds", "Since all that other workers wrote was taken in"
        )
        self.feedback = self._counter(
            "crm_feedback", "What became of recommendations and decisions", "outcome", "strategy"
        )
        self.drift = self._counter("crm_drift_detected", "Drifts detected in a model", "model")
