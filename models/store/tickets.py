"""Tickets: names that stand for a caller's claims for half a minute, and once (contract section 3)."""

from __future__ import annotations

from models.store import keys
from models.store.connection import Command

TICKET_MS = 30_000


def keep_command(ticket: str, claims: bytes) -> Command:
    return ("SET", keys.ticket(ticket), claims, "PX", TICKET_MS)


def take_command(ticket: str) -> Command:
    """Take the claims of a ticket, so that nobody else gets them. The answer is None where there is no such ticket.

    Not to be repeated: where its answer was lost the ticket is gone.
    """
    return ("GETDEL", keys.ticket(ticket))
