"""`/metrics`: who may read it, and that a scrape shows the whole instance whichever process answers."""

from __future__ import annotations

import http.client
import shutil
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import InstanceFactory
from tests.support.acting import open_socket
from tests.support.client import HttpClient
from tests.support.instance import Instance, wait_until

Labels = dict[str, str]


def _scrape(instance: Instance, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=10.0)
    try:
        connection.request(
            "GET", "/metrics", headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _value(instance: Instance, name: str, **labels: str) -> float:
    """Return the sum of all samples of a name whose labels include these."""
    status, text = _scrape(instance)
    assert status == 200, text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


def test_a_scrape_counts_what_all_processes_did(instance: Instance, friends: tuple[int, int]) -> None:
    """Twenty sends over fresh connections reach both processes; every scrape counts all of them."""
    sender, recipient = friends
    stored = _value(instance, "hongyan_verdicts_total", code="stored")
    route = "/api/chat/socket/sendmessage"
    asked = _value(instance, "hongyan_requests_total", route=route, status="200")
    entries = _value(instance, "hongyan_entries_total", protocol="1")
    acknowledged = _value(instance, "hongyan_acknowledgements_total")
    with open_socket(instance, recipient) as socket:
        for number in range(20):
            status, body = HttpClient(instance.base, instance.tokens[sender]).send(recipient, f"counted {number}")
            assert status == 200, body
        socket.wait_for_text("counted 19")

        # The other process's file is a second old at most.
        assert wait_until(lambda: _value(instance, "hongyan_verdicts_total", code="stored") >= stored + 20, 5.0)
        assert wait_until(lambda: _value(instance, "hongyan_entries_total", protocol="1") >= entries + 20, 5.0)
        assert wait_until(lambda: _value(instance, "hongyan_acknowledgements_total") > acknowledged, 5.0)

    assert _value(instance, "hongyan_requests_total", route=route, status="200") >= asked + 20
    assert _value(instance, "hongyan_request_seconds_count", route=route) >= 20
    assert _value(instance, "hongyan_accepted_total", kind="send") >= 20
    assert _value(instance, "hongyan_web_processes") == 2
    assert _value(instance, "hongyan_redis_up") == 1


def test_sockets_are_counted_while_they_are_open(instance: Instance, friends: tuple[int, int]) -> None:
    """A protocol 2 socket is one more while it is open, and one less when it has gone."""
    before = _value(instance, "hongyan_sockets", protocol="2")

    with open_socket(instance, friends[0], 2):
        assert wait_until(lambda: _value(instance, "hongyan_sockets", protocol="2") == before + 1, 5.0)

    assert wait_until(lambda: _value(instance, "hongyan_sockets", protocol="2") == before, 5.0)


def test_failures_are_counted_by_code(instance: Instance) -> None:
    before = _value(instance, "hongyan_failures_total", code="token_missing")

    HttpClient(instance.base, None).get("/api/chat/conversations")

    assert wait_until(lambda: _value(instance, "hongyan_failures_total", code="token_missing") == before + 1, 5.0)


def test_what_waits_for_a_verdict_is_seen_with_its_age(fresh_instance: InstanceFactory) -> None:
    """With the workers stopped, requests stand in the backlog and grow old."""
    instance = fresh_instance(WORKER_PROCESSES="1")
    tokens = instance.seed(2, 0)
    instance.kill("worker", signal.SIGSTOP)
    for number in range(3):
        status, _ = HttpClient(instance.base, tokens[1]).send(2, f"waits {number}", respond_async=True)
        assert status == 202

    assert _value(instance, "hongyan_outbox_length") == 3
    assert wait_until(lambda: _value(instance, "hongyan_oldest_undecided_seconds") > 0.5, 5.0)

    instance.kill("worker", signal.SIGCONT)
    assert wait_until(lambda: _value(instance, "hongyan_outbox_length") == 0, 20.0)
    assert _value(instance, "hongyan_oldest_undecided_seconds") == 0


@pytest.mark.parametrize("header", ["X_Forwarded_For", "Forwarded", "X_Real_IP", "Via"])
def test_without_a_metrics_token_a_forwarded_request_is_refused(instance: Instance, header: str) -> None:
    """A proxy on this machine comes from loopback too, but it brings somebody else."""
    status, text = _scrape(instance, **{header: "127.0.0.1"})

    assert status == 401
    assert '"code":"metrics_unauthorized"' in text


def test_with_a_metrics_token_every_request_needs_it(fresh_instance: InstanceFactory) -> None:
    """The bearer opens /metrics, also through a proxy; loopback alone opens nothing any more."""
    instance = fresh_instance(METRICS_TOKEN="for-prometheus", WORKER_PROCESSES="1")

    assert _scrape(instance)[0] == 401
    assert _scrape(instance, Authorization="Bearer wrong")[0] == 401
    assert _scrape(instance, Authorization="Basic for-prometheus")[0] == 401
    assert _scrape(instance, Authorization="Bearer for-prometheus")[0] == 200
    assert _scrape(instance, Authorization="Bearer for-prometheus", X_Forwarded_For="203.0.113.9")[0] == 200


def test_counts_outlive_a_killed_process_and_no_counter_falls(fresh_instance: InstanceFactory) -> None:
    """What a web process had counted a second before it was killed is still there."""
    instance = fresh_instance(WORKER_PROCESSES="1")
    for _ in range(30):
        assert HttpClient(instance.base, None).get("/api/chat/conversations")[0] == 400
    name, labels = "hongyan_failures_total", {"code": "token_missing"}
    assert wait_until(lambda: _value(instance, name, **labels) == 30, 5.0)

    instance.kill("web")
    instance.wait_processes("web", 2)
    instance.wait_ready()

    assert _value(instance, name, **labels) == 30


def test_a_scrape_is_answered_where_nothing_can_be_written(fresh_instance: InstanceFactory) -> None:
    """On a full disk above all, since that is when somebody should look."""
    instance = fresh_instance(WEB_PROCESSES="1")
    folder = instance.data_dir / "metrics"

    def is_barred() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.write_text("a file where the folder should be")
        except IsADirectoryError:  # the web process was faster
            return False
        return True

    assert wait_until(is_barred, 5.0)

    assert _value(instance, "hongyan_redis_up") == 1
