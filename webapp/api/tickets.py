"""Tickets for the websocket (contract section 3)."""

from __future__ import annotations

from flask import Blueprint, Response

from schemas.answers import Exact, number, text
from webapp.auth import Gatekeeper
from webapp.http import ok
from webapp.routes import describe
from webapp.tickets import TICKET_SECONDS, Tickets


class TicketAnswer(Exact):
    """A ticket, for one `/ws?ticket=…`."""

    ticket = text()
    expires_in = number(description="seconds")


def make_blueprint(gatekeeper: Gatekeeper, tickets: Tickets) -> Blueprint:
    blueprint = Blueprint("tickets", __name__)

    @blueprint.post("/api/chat/ticket")
    @describe("Get a ticket that opens one websocket", access="visitor", answer=TicketAnswer())
    def post_ticket() -> Response:
        caller = gatekeeper.caller()
        return ok({"ticket": tickets.issue(caller), "expires_in": TICKET_SECONDS})

    return blueprint
