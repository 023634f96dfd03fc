"""What a client with an open HTTP connection meets when its web process is told to end."""

from __future__ import annotations

import signal
import socket
import time

from tests.conftest import InstanceFactory
from tests.support.acting import open_socket
from tests.support.instance import wait_until

_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_connection_that_waits_for_its_next_request_ends_without_a_word(fresh_instance: InstanceFactory) -> None:
    """A web process that was replaced wrote a 500 into idle connections, which met the client's next request."""
    instance = fresh_instance(WEB_PROCESSES="1", WORKER_PROCESSES="1")
    (old,) = instance.processes("web")
    with socket.create_connection(("127.0.0.1", instance.port), timeout=15.0) as client:
        client.sendall(_REQUEST)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")

        instance.kill("web-master", signal.SIGHUP)

        # What comes before the end is what the client would take for the answer to a request.
        assert client.recv(65_536) == b""
    assert wait_until(lambda: old not in instance.processes("web"), 10.0)


def test_whoever_comes_while_the_process_stops_is_served_by_the_next(fresh_instance: InstanceFactory) -> None:
    """A process that was told to stop went on accepting for up to a second, and dropped whom it had let in when it ended."""
    instance = fresh_instance(WEB_PROCESSES="1", WORKER_PROCESSES="1")
    instance.seed(4, 2)
    (old,) = instance.processes("web")

    with open_socket(instance, 2, 2) as former:
        instance.kill("web", signal.SIGTERM)
        assert wait_until(lambda: former.close_code == 1012, 10.0)
    with open_socket(instance, 1, 2) as newcomer:
        assert wait_until(lambda: old not in instance.processes("web"), 10.0)
        time.sleep(0.2)  # a moment for what the end of the process would have done to it
        assert newcomer.is_open
