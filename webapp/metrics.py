"""`/metrics` for Prometheus: what all web processes of this machine have counted, and what waits in the outbox.

Each process writes its counts to a file in `DATA_DIR/metrics` once a second; whichever process is asked adds the files up. Counts of
processes that have died stay, so that no counter ever falls while the instance runs. The only importer of prometheus_client.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import gevent
import orjson
import structlog
from flask import Blueprint, Flask, Request, Response, request
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from models import shards, webhooks
from models.database import Database
from models.errors import DatabaseUnavailable, StoreUnavailable
from models.requests import decode
from models.store import outbox
from settings import Settings
from webapp.counts import REQUEST_BOUNDS, counts
from webapp.errors import ApiError
from webapp.http import this_request
from webapp.routes import describe
from webapp.services import Redis, offload

log = structlog.get_logger()

_WRITE_SECONDS = 1.0
_SILENT_SECONDS = 10.0  # a process that has not written for so long is gone: its sockets count no more
_UNKNOWN_ROUTE = "unknown"
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via")

_Sums = dict[str, dict[tuple[Any, ...], Any]]


class Snapshots:
    """Keeps the counts of this process where the other processes find them."""

    def __init__(self, settings: Settings, process_id: str) -> None:
        self._folder = settings.data_dir / "metrics"
        self._path = self._folder / f"{process_id}.json"

    def start(self) -> None:
        gevent.spawn(self._write_for_ever)

    def _write_for_ever(self) -> None:
        while True:
            self.write()
            gevent.sleep(_WRITE_SECONDS)

    def write(self) -> None:
        """Write them if the disk takes them. Where it is full a scrape shows what was written before, and all the rest."""
        temporary = self._path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            temporary.write_bytes(orjson.dumps(counts.snapshot()))
            os.replace(temporary, self._path)
        except OSError as error:
            log.warning("metrics_not_written", error=str(error))

    def read_all(self) -> tuple[_Sums, int]:
        """Return the sums over all processes, and how many of them are alive."""
        sums: _Sums = defaultdict(dict)
        alive_count = 0
        for path in sorted(self._folder.glob("*.json")):
            try:
                snapshot, written_at = orjson.loads(path.read_bytes()), path.stat().st_mtime
            except (OSError, orjson.JSONDecodeError) as error:
                log.warning("metrics_not_read", file=path.name, error=str(error))
                continue
            is_alive = time.time() - written_at < _SILENT_SECONDS
            alive_count += is_alive
            if not is_alive:
                snapshot.pop("sockets", None)
            for name, rows in snapshot.items():
                _add_up(sums[name], rows)
        return sums, alive_count


def _add_up(sums: dict[tuple[Any, ...], Any], rows: Iterable[list[Any]]) -> None:
    for *labels, value in rows:
        key = tuple(labels)
        if isinstance(value, list):
            sums[key] = [mine + its for mine, its in zip(sums.get(key, [0] * len(value)), value, strict=False)]
        else:
            sums[key] = sums.get(key, 0) + value


class _Instance(Collector):
    """Gives what the files, the outbox and the table of webhooks hold at this moment."""

    def __init__(self, snapshots: Snapshots, store: Redis, database: Database, shard_count: int) -> None:
        self._snapshots = snapshots
        self._store = store
        self._database = database
        self._shards = range(shard_count)

    def collect(self) -> Iterator[Metric]:
        sums, alive_count = self._snapshots.read_all()
        yield GaugeMetricFamily("hongyan_web_processes", "Web processes that are alive", alive_count)
        for name, help_text, key, labels in _COUNTERS:
            counter = CounterMetricFamily(name, help_text, labels=labels)
            for values, total in sums.get(key, {}).items():
                counter.add_metric([str(value) for value in values], total)
            yield counter
        yield _request_seconds(sums)
        sockets = GaugeMetricFamily("hongyan_sockets", "Open websockets", labels=["protocol"])
        for (protocol,), open_count in sums.get("sockets", {}).items():
            sockets.add_metric([str(protocol)], open_count)
        yield sockets
        yield from self._backlog()
        yield from self._webhooks()

    def _backlog(self) -> Iterator[Metric]:
        try:
            waiting = outbox.backlog(self._store.client, self._shards)
        except StoreUnavailable:
            waiting = None
        yield GaugeMetricFamily("hongyan_redis_up", "Whether Redis answered this scrape", waiting is not None)
        if waiting is None:
            return
        lengths = GaugeMetricFamily("hongyan_outbox_length", "Requests that wait for a verdict", labels=["shard"])
        heads = [head for _, head in waiting.values() if head is not None]
        for shard, (length, _) in waiting.items():
            lengths.add_metric([str(shard)], length)
        yield lengths
        oldest_ms = min(_readable_times(heads), default=None)
        age = 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
        yield GaugeMetricFamily("hongyan_oldest_undecided_seconds", "Age of the oldest request without a verdict", age)

    def _webhooks(self) -> Iterator[Metric]:
        def load() -> tuple[list[Any], dict[int, int]]:
            with self._database.reading() as connection:
                return webhooks.load_all(connection), shards.load_last_positions(connection)

        try:
            hooks, last = offload(self._database, load)
        except DatabaseUnavailable as error:
            log.warning("webhooks_not_counted", error=str(error))
            return
        delivered = CounterMetricFamily(
            "hongyan_webhook_events", "Events that a target has confirmed", labels=["webhook"]
        )
        failed = CounterMetricFamily("hongyan_webhook_failures", "POSTs that failed", labels=["webhook"])
        lag = GaugeMetricFamily("hongyan_webhook_lag", "Decisions that lie behind a webhook", labels=["webhook"])
        paused = GaugeMetricFamily("hongyan_webhook_paused", "1: the webhook is paused", labels=["webhook"])
        for hook in hooks:
            label = [str(hook.id)]
            delivered.add_metric(label, hook.delivered_count)
            failed.add_metric(label, hook.failed_count)
            lag.add_metric(label, webhooks.count_behind(webhooks.decode_positions(hook.positions), last))
            paused.add_metric(label, hook.paused is not None)
        yield from (delivered, failed, lag, paused)


def _readable_times(entries: Iterable[bytes]) -> Iterator[int]:
    """Give when the requests were made. One that nobody can read waits only until a drain buries it."""
    for entry in entries:
        with suppress(ValueError):
            yield decode(entry).created_at_ms


# Name, help, key of the snapshot, labels.
_COUNTERS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("hongyan_requests", "HTTP requests", "requests", ("route", "status")),
    ("hongyan_failures", "Requests and frames refused by the edge; limits are the codes of status 429", "failures", ("code",)),
    ("hongyan_accepted", "Requests that became durable in the outbox", "accepted", ("kind",)),
    ("hongyan_verdicts", "Verdicts that came back; code `stored`: allowed", "verdicts", ("code",)),
    ("hongyan_entries", "Inbox entries written to sockets", "entries", ("protocol",)),
    ("hongyan_acknowledgements", "Acknowledged positions told to Redis", "acknowledgements", ()),
    ("hongyan_uploads", "Files that were kept", "uploads", ("kind",)),
    ("hongyan_upload_bytes", "Bytes of the files that were kept", "upload_bytes", ("kind",)),
    ("hongyan_bounds_hit", "Times a bound said no; `bound` is its setting", "bounds", ("bound",)),
    ("hongyan_sockets_closed", "Sockets ended by the server; `dropped`: without a close frame", "closed", ("code",)),
)  # fmt: skip


def _request_seconds(sums: _Sums) -> HistogramMetricFamily:
    histogram = HistogramMetricFamily("hongyan_request_seconds", "Time to answer an HTTP request", labels=["route"])
    for (route,), in_bucket in sums.get("request_buckets", {}).items():
        below, buckets = 0, []
        for bound, some in zip((*map(str, REQUEST_BOUNDS), "+Inf"), in_bucket, strict=True):
            below += some
            buckets.append((bound, below))
        histogram.add_metric([route], buckets, sums["request_seconds"].get((route,), 0.0))
    return histogram


def make_blueprint(settings: Settings, snapshots: Snapshots, store: Redis, database: Database) -> Blueprint:
    blueprint = Blueprint("metrics", __name__)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Instance(snapshots, store, database, settings.outbox_shards))

    @blueprint.get("/metrics")
    @describe(
        "Figures for Prometheus, with the bearer METRICS_TOKEN; where none is set, for direct requests from loopback",
        access="anyone",
        answer=None,
        media="text/plain",
        failures=("metrics_unauthorized",),
    )
    def get_metrics() -> Response:
        if not _may_read(request, settings.metrics_token):
            raise ApiError("metrics_unauthorized")
        snapshots.write()  # what this process has counted just now
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return blueprint


def _may_read(asking: Request, metrics_token: str | None) -> bool:
    if metrics_token is not None:
        scheme, _, given = asking.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), metrics_token.encode())
    if any(name in asking.headers for name in _FORWARDED):
        return False  # somebody else's request, brought by a proxy on this machine
    try:
        address = ipaddress.ip_address(asking.environ.get("REMOTE_ADDR") or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def count_requests(app: Flask) -> None:
    """Count every HTTP request by route and status, and the seconds it took."""
    environ_key = "hongyan.started"

    @app.before_request
    def note_start() -> None:
        this_request().environ[environ_key] = time.perf_counter()

    @app.after_request
    def note_end(response: Response) -> Response:
        asked = this_request()
        rule = asked.url_rule
        if rule is None or not rule.websocket:
            started = asked.environ.get(environ_key)
            seconds = time.perf_counter() - started if started is not None else 0.0
            counts.add_request(_UNKNOWN_ROUTE if rule is None else rule.rule, response.status_code, seconds)
        return response
