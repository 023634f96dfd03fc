"""The proxy between real sockets: it forwards, and misbehaves exactly as told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.proxy import Proxy, ProxyFailed, Route
from tests.support.instance import wait_until


def _inode(path: Path) -> int | None:
    """Return which file has a name now, None where none has."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


class _Echo:
    """A server that answers what it is told. address: a port, or a path."""

    def __init__(self, address: int | Path) -> None:
        self.inode: int | None = None
        if isinstance(address, Path):
            self.listener = socket.socket(socket.AF_UNIX)
            address.unlink(missing_ok=True)  # as Redis does
            self.listener.bind(str(address))
            self.inode = _inode(address)
            self.listener.listen()
        else:
            self.listener = socket.create_server(("127.0.0.1", address))
        self.accepted: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.accepted.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    @staticmethod
    def _answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                connection.sendall(data)

    def close(self) -> None:
        self.listener.close()
        for connection in self.accepted:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return _free_port()


@pytest.fixture
def proxy(port: int) -> Iterator[Proxy]:
    """A proxy before an echoing server."""
    server = _Echo(0)
    upstream = ("127.0.0.1", int(server.listener.getsockname()[1]))
    with Proxy([Route("sql", ("127.0.0.1", port), upstream)]) as running:
        yield running
    server.close()


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5.0)


def _echoes(client: socket.socket, text: bytes) -> bool:
    client.sendall(text)
    return client.recv(100) == text


def test_it_forwards(proxy: Proxy, port: int) -> None:
    with _connect(port) as client:
        assert _echoes(client, b"hello")


def test_delay_is_on_each_way(proxy: Proxy, port: int) -> None:
    """What goes there and back takes twice the delay, and nothing more once it is mended."""
    with _connect(port) as client:
        proxy.tell("sql", "delay", seconds=0.2)
        begin = time.monotonic()
        assert _echoes(client, b"slowly")
        assert time.monotonic() - begin >= 0.4

        proxy.tell("sql", "mend")
        assert _echoes(client, b"quickly")


def test_a_cut_ends_what_is_open_and_refuses_what_is_new(proxy: Proxy, port: int) -> None:
    with _connect(port) as client:
        assert _echoes(client, b"hello")

        assert proxy.tell("sql", "cut") == 1

        with pytest.raises(ConnectionResetError):
            client.recv(100)
        with pytest.raises(ConnectionRefusedError):
            _connect(port)
    proxy.tell("sql", "mend")
    with _connect(port) as client:
        assert _echoes(client, b"again")


def test_what_was_held_back_comes_late(proxy: Proxy, port: int) -> None:
    with _connect(port) as client:
        assert _echoes(client, b"hello")
        proxy.tell("sql", "hold")
        client.sendall(b"held")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(100)

        proxy.tell("sql", "mend")

        client.settimeout(5.0)
        assert client.recv(100) == b"held"


def test_what_was_held_back_may_be_lost_with_its_connection(proxy: Proxy, port: int) -> None:
    """Only connections that carried something meanwhile are ended: the others cannot have noticed."""
    with _connect(port) as busy, _connect(port) as idle:
        assert _echoes(busy, b"hello")
        assert _echoes(idle, b"hello")
        proxy.tell("sql", "hold")
        busy.sendall(b"swallowed")
        assert wait_until(lambda: True, 0.1)
        time.sleep(0.2)  # until the proxy has read it: there is nothing to see from outside

        assert proxy.tell("sql", "lose") == 1

        with pytest.raises(ConnectionResetError):
            busy.recv(100)
        assert _echoes(idle, b"still here")


def test_a_half_open_connection_says_nothing_and_does_not_end(proxy: Proxy, port: int) -> None:
    with _connect(port) as client:
        assert _echoes(client, b"hello")

        assert proxy.tell("sql", "half_open", share=1.0, seed=1) == 1

        client.sendall(b"into nothing")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(100)
        with _connect(port) as other:
            assert _echoes(other, b"others are not concerned")


def test_it_takes_the_place_of_a_unix_socket_again_and_again(tmp_path: Path) -> None:
    """Redis binds its path anew at each start; clients of the path reach it through the proxy all the same."""
    place, real = tmp_path / "redis.sock", tmp_path / "redis.real"
    with Proxy([Route("redis", str(place), str(real))]) as proxy:
        for _ in range(2):
            server = _Echo(place)
            assert wait_until(lambda bound=server.inode: _inode(real) == bound != _inode(place), 5.0, 0.01)  # type: ignore[misc]
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5.0)
                client.connect(str(place))
                assert _echoes(client, b"hello")
                assert proxy.tell("redis", "cut") == 1
                assert client.recv(100) == b""
            assert not place.exists()
            proxy.tell("redis", "mend")
            assert place.exists()
            server.close()


def test_a_wrong_command_is_an_error_and_harms_nothing(proxy: Proxy, port: int) -> None:
    with pytest.raises(ProxyFailed, match="KeyError"):
        proxy.tell("nowhere", "cut")
    with _connect(port) as client:
        assert _echoes(client, b"hello")
