"""What we want to reach, and what others cost for the same work. Data only.

The others' figures are from two shared cores, with a generator like ours beside them: medians of three interleaved runs of a
durable one-to-one chat of 100-byte texts, with a token check, recipient and friendship checks, both histories, and
delivery to a live connection. Absolute figures belong to that machine; ratios travel.
"""

from __future__ import annotations

from dataclasses import dataclass

OTHERS = (
    "naive card",
    "original's stack",
    "Channels",
    "python-socketio",
    "ejabberd+PG",
    "Prosody",
    "socket.io",
)


@dataclass(frozen=True, slots=True)
class Target:
    """One row. others: in the order of OTHERS, None where it was not measured. is_floor: more is better"""

    title: str
    scenario: str
    measure: str
    target: float
    stretch: float
    others: tuple[float | None, ...]
    is_floor: bool = False

    def is_met(self, value: float) -> bool:
        """Say whether a figure reaches the target."""
        return value >= self.target if self.is_floor else value <= self.target


TARGETS = (
    Target(
        "HTTP send, 64 in flight, CPU-ms a message",
        "http_64",
        "cpu_ms",
        0.60,
        0.40,
        (3.89, 2.03, 1.98, 0.505, None, None, 0.197),
    ),
    Target(
        "native send (websocket, XMPP), 64 in flight, CPU-ms a message",
        "ws_64",
        "cpu_ms",
        0.20,
        0.14,
        (None, None, None, 0.572, 0.546, 0.416, 0.175),
    ),
    Target(
        "HTTP send, 16 in flight, CPU-ms a message",
        "http_16",
        "cpu_ms",
        0.90,
        0.60,
        (4.2, None, None, None, None, None, 0.238),
    ),
    Target(
        "messages a second, HTTP, 64 in flight",
        "http_64",
        "per_second",
        2_800,
        4_500,
        (456, 926, 805, 3_488, 2_979, 2_402, 8_163),
        is_floor=True,
    ),
    Target("p50 ms at 300 a second", "open_300", "p50_ms", 2.0, 1.2, (4.8, 2.6, 2.0, 1.2, 1.7, 0.7, 0.8)),
    Target("p99 ms at 300 a second", "open_300", "p99_ms", 5.0, 2.5, (11.2, 9.2, 4.1, 2.4, 3.2, 4.4, 4.4)),
    Target(
        "group of 200, CPU-ms a delivery",
        "group_200",
        "cpu_ms",
        0.020,
        0.012,
        (0.340, 0.924, 0.119, 0.083, 0.032, 0.266, 0.0132),
    ),
    Target(
        "KiB of memory an idle socket, 5,000",
        "idle_5000",
        "kib_per_socket",
        24,
        18,
        (43.9, 45.1, 52.5, 50.4, 75.7, 33.1, 22.1),
    ),
    Target(
        "CPU-ms a connection, 5,000 at once", "idle_5000", "cpu_ms", 1.2, 0.6, (1.12, 1.9, 1.22, 1.42, 1.77, 1.91, 0.89)
    ),
    Target(
        "10,000 waiting messages, seconds to deliver",
        "replay_10000",
        "seconds",
        0.5,
        0.1,
        (2.9, 0.46, None, 2.2, 1.0, 17.0, 0.25),
    ),
)
