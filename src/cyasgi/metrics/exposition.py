"""The metrics in the words of Prometheus, for its client library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .. import __version__, backend
from .._common.cells import (
    BOUNDS,
    DATAGRAMS_RECEIVED,
    DATAGRAMS_SENT,
    FAILURES,
    LOOP_LAG,
    MESSAGE_TIME,
    REQUEST_TIME,
    REQUESTS,
    RESPONSES,
    STREAM_BYTES_RECEIVED,
    STREAM_BYTES_SENT,
    STREAM_MESSAGES_RECEIVED,
    STREAM_MESSAGES_SENT,
    STREAMS,
    UNDELIVERED,
    WEBSOCKETS,
)
from .snapshot import SERVING, STARTING, STOPPING, Snapshot, Source, Totals, histogram_in

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "metrics for Prometheus need prometheus_client: pip install 'cyasgi[metrics]'", name="prometheus_client"
    ) from None

#: By cell: the name of the counter, without `_total`, and what it counts.
CELL_COUNTERS = {
    REQUESTS: ("cyasgi_http_requests", "HTTP requests that an application was run for."),
    WEBSOCKETS: ("cyasgi_websockets", "WebSockets begun."),
    DATAGRAMS_RECEIVED: ("cyasgi_datagrams_received", "Datagrams received, dropped ones included."),
    DATAGRAMS_SENT: ("cyasgi_datagrams_sent", "Datagrams handed to the system."),
    STREAMS: ("cyasgi_streams", "Streams begun, those of clients that came back included."),
    STREAM_MESSAGES_RECEIVED: ("cyasgi_stream_messages_received", "Messages received by applications from streams."),
    STREAM_MESSAGES_SENT: ("cyasgi_stream_messages_sent", "Messages sent by applications to streams."),
    STREAM_BYTES_RECEIVED: ("cyasgi_stream_received_bytes", "Bytes read from streams."),
    STREAM_BYTES_SENT: ("cyasgi_stream_sent_bytes", "Bytes of messages sent to streams."),
    FAILURES: ("cyasgi_failures", "Applications that raised an exception."),
    UNDELIVERED: ("cyasgi_undelivered_messages", "Messages left in the queue of an instance that has ended."),
}
#: By cell: the name of the histogram, and what it observes.
HISTOGRAMS = {
    REQUEST_TIME: (
        "cyasgi_http_request_duration_seconds",
        "Time from the head of an HTTP request to the end of its response.",
    ),
    MESSAGE_TIME: (
        "cyasgi_message_wait_seconds",
        "Time that a message waits in the queue of its instance, or in its stream; one message in 16 is observed.",
    ),
    LOOP_LAG: ("cyasgi_event_loop_lag_seconds", "How late the event loop runs what is due, observed each 0.25 s."),
}
#: By counter of `stats()`: the name, without `_total`, what it counts, and labels beside `server`.
COUNTERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "created": ("cyasgi_instances_created", "Application instances created.", {}),
    "reused": ("cyasgi_instances_reused", "Lookups that found a live application instance.", {}),
    "evicted": ("cyasgi_instances_evicted", "Instances evicted to make room for new ones.", {}),
    "expired": ("cyasgi_instances_expired", "Instances that were idle, or there, for too long.", {}),
    "orphaned": ("cyasgi_instances_orphaned", "Instances whose holder ended without running them.", {}),
    "aged": ("cyasgi_instances_aged", "Instances that have reached max_age.", {}),
    "finished": ("cyasgi_runs", "Runs of applications that have ended, by outcome.", {"outcome": "finished"}),
    "failed": ("cyasgi_runs", "", {"outcome": "failed"}),
    "cancelled": ("cyasgi_runs", "", {"outcome": "cancelled"}),
    "interrupted": ("cyasgi_interrupted_messages", "Messages received by applications that did not finish them.", {}),
    "connections_total": ("cyasgi_connections_opened", "Connections accepted.", {}),
    "refused": ("cyasgi_refused", "Requests and connections refused for want of room; messages that are none.", {}),
    "bad_requests": ("cyasgi_bad_requests", "Malformed requests.", {}),
    "bad_messages": ("cyasgi_bad_messages", "Streams ended by what is no message, or one that is too long.", {}),
    "overloaded": ("cyasgi_overloaded", "Streams ended since too many bytes were waiting.", {}),
    **{
        f"refused_{reason}": ("cyasgi_streams_refused", "Streams refused, by reason.", {"reason": reason})
        for reason in ("connections", "instances", "client", "reconnected", "scope_id")
    },
    "timeouts": ("cyasgi_timeouts", "Requests and clients that took too long.", {}),
    "proxy_refused": ("cyasgi_proxy_refused", "Connections closed for want of a header of a trusted proxy.", {}),
    "received": ("cyasgi_queue_received", "Messages that the queue's broker has delivered.", {}),
    "redelivered": ("cyasgi_queue_redelivered", "Those among them that were delivered before.", {}),
    "acknowledged": ("cyasgi_queue_acknowledged", "Messages acknowledged: they are done, or dead letters.", {}),
    "retried": ("cyasgi_queue_retried", "Failures after which a message is tried again.", {}),
    "buried": ("cyasgi_queue_dead_letters", "Messages that went to the dead letters.", {}),
    "given_back": ("cyasgi_queue_given_back", "Messages rejected to be delivered again.", {}),
    "taken_away": ("cyasgi_queue_taken_away", "Messages in hand when their partition was lost.", {}),
    "partitions_lost": ("cyasgi_queue_partitions_lost", "Partitions that the broker has taken away.", {}),
    "published": ("cyasgi_queue_published", "Messages published by applications.", {}),
    "replied": ("cyasgi_queue_replied", "Answers published by applications.", {}),
    "unclaimed_replies": ("cyasgi_queue_unclaimed_replies", "Answers for which nobody waited any more.", {}),
    "socket_errors": ("cyasgi_socket_errors", "Errors of UDP sockets.", {}),
    "messages": ("cyasgi_channel_messages", "Messages of channels that applications were given.", {}),
    "timed_out": ("cyasgi_channel_messages_timed_out", "Messages of channels that took too long.", {}),
    "restored": ("cyasgi_channel_messages_restored", "Messages that an application was given and left.", {}),
    "put_back": ("cyasgi_channel_messages_put_back", "Messages given back to the channel layer.", {}),
    "taken_over": ("cyasgi_channel_messages_taken_over", "Messages put back for workers that were gone.", {}),
    "reconnects": ("cyasgi_layer_reconnects", "Times that a channel layer has failed and was tried again.", {}),
    **{
        f"dropped_{reason}": ("cyasgi_datagrams_dropped", "Datagrams dropped, by reason.", {"reason": reason})
        for reason in (
            *("queue_full", "oversized", "refused", "limited", "table_full"),
            *("own", "proxy", "stopping", "by_system"),
        )
    },
    **{
        f"limited_{limit}": ("cyasgi_limited", "What a client's limit has refused, by limit.", {"limit": limit})
        for limit in ("instances", "messages", "hooks")
    },
}
#: By number of `stats()`: the gauge, and what it shows; for each worker.
GAUGES = {
    "live": ("cyasgi_instances", "Application instances in the table."),
    "idle": ("cyasgi_instances_idle", "Instances whose queue is empty and whose application waits for a message."),
    "closing": ("cyasgi_instances_closing", "Runs that go on after their instance has left the table."),
    "connections": ("cyasgi_connections", "Open connections."),
    "partitions": ("cyasgi_queue_partitions", "Partitions of the queue that are held."),
    "waiting": ("cyasgi_channel_messages_waiting", "Messages fetched from the channel layer, and not begun."),
    "waiting_bytes": ("cyasgi_waiting_bytes", "Bytes that wait in streams for applications, or for their messages."),
    "limit_keys": ("cyasgi_limit_keys", "Clients that limits are counted for."),
}


class CyasgiCollector(Collector):
    """Asks for a snapshot whenever metrics are collected.

        REGISTRY.register(CyasgiCollector(metrics))

    Args:
        source: knows the processes.
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Sequence[Metric]:
        """Return nothing: the names are the same, whatever is collected, and nobody need ask the source for them."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        snapshot = self._source.snapshot()
        totals = snapshot.totals()
        info = GaugeMetricFamily("cyasgi_build_info", "Version and back end.", labels=["version", "backend"])
        info.add_metric([__version__, backend], 1)
        yield info
        yield from _of_processes(snapshot)
        yield from _of_cells(totals)
        yield from _of_stats(totals)
        yield from _of_workers(snapshot)


def _of_processes(snapshot: Snapshot) -> Iterator[Metric]:
    workers = GaugeMetricFamily("cyasgi_workers", "Processes that serve, by what they do.", labels=["state"])
    for state in (STARTING, SERVING, STOPPING):
        workers.add_metric([state], sum(worker.state == state for worker in snapshot.workers))
    yield workers
    started = CounterMetricFamily("cyasgi_workers_started", "Processes started.")
    started.add_metric([], snapshot.started)
    yield started
    restarts = CounterMetricFamily(
        "cyasgi_worker_restarts", "Processes that serve in place of another one, by reason.", labels=["reason"]
    )
    for reason, count in snapshot.restarts.items():
        restarts.add_metric([reason], count)
    yield restarts


def _of_cells(totals: Totals) -> Iterator[Metric]:
    for cell, (name, text) in CELL_COUNTERS.items():
        counter = CounterMetricFamily(name, text)
        counter.add_metric([], totals.cells[cell])
        yield counter
    responses = CounterMetricFamily(
        "cyasgi_http_responses", "HTTP responses, the server's own included, by status.", labels=["code"]
    )
    for digit in range(1, 6):
        responses.add_metric([f"{digit}xx"], totals.cells[RESPONSES + digit - 1])
    yield responses
    failures = CounterMetricFamily(
        "cyasgi_failures_by_type",
        "The same failures by the type of the exception, up to a second later.",
        labels=["type"],
    )
    for kind, count in totals.failure_types.items():
        failures.add_metric([kind], count)
    yield failures
    for first, (name, text) in HISTOGRAMS.items():
        found = histogram_in(totals.cells, first)
        buckets, passed = [], 0
        for bound, times in zip((*map(repr, BOUNDS), "+Inf"), found.buckets, strict=True):
            passed += times
            buckets.append((bound, float(passed)))
        family = HistogramMetricFamily(name, text)
        family.add_metric([], buckets, found.sum)
        yield family


def _of_stats(totals: Totals) -> Iterator[Metric]:
    families: dict[str, CounterMetricFamily] = {}
    for key, (name, text, labels) in COUNTERS.items():
        for server, stats in totals.stats.items():
            if key in stats:
                if name not in families:
                    families[name] = CounterMetricFamily(name, text, labels=["server", *labels])
                families[name].add_metric([server, *labels.values()], stats[key])
    yield from families.values()


def _of_workers(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield what there is now: for each worker, or for two in sum while one of them replaces the other."""
    labels = ["server", "worker"]
    found: dict[tuple[str, str], dict[tuple[str, str], int]] = {}

    def note(metric: tuple[str, str], server: str, worker: str, value: int) -> None:
        values = found.setdefault(metric, {})
        values[server, worker] = values.get((server, worker), 0) + value

    lags: dict[str, float] = {}
    for worker in snapshot.workers:
        number = str(worker.number)
        lags[number] = max(lags.get(number, 0.0), worker.lag)
        for server, seen in worker.overview.servers.items():
            for key, metric in GAUGES.items():
                if key in seen.stats:
                    note(metric, server, number, seen.stats[key])
            note(("cyasgi_instances_waiting", "Instances with messages in their queues."), server, number, seen.waiting)
            note(("cyasgi_queued_messages", "Messages in the queues of instances."), server, number, seen.queued)
    for (name, text), values in found.items():
        family = GaugeMetricFamily(name, text, labels=labels)
        for place, value in values.items():
            family.add_metric(place, value)
        yield family
    lag = GaugeMetricFamily(
        "cyasgi_event_loop_late_seconds", "How late the event loop is, or was in the last second.", labels=["worker"]
    )
    for number, seconds in lags.items():
        lag.add_metric([number], seconds)
    yield lag
