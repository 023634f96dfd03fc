"""Telling: handing the notices of a committed change to the outbox (`models/notices.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from models import notices
from models.database import Database
from models.errors import ModelError
from models.requests import Request
from webapp.services import Acceptor, offload

log = structlog.get_logger()


class Teller:
    """Tells what a change of friends or groups has to tell. The change's own transaction has queued it."""

    def __init__(self, acceptor: Acceptor, database: Database) -> None:
        self._acceptor = acceptor
        self._database = database

    def tell(self, queued: Sequence[Request]) -> None:
        """Hand over notices that a committed transaction has queued. Never raises: a drain sweeps up what is left."""
        try:
            for notice in queued:
                self._acceptor.accept(notice)
            if queued:
                offload(self._database, self._forget, [notice.id for notice in queued])
        except ModelError as error:
            log.warning("notice_left_to_the_sweep", count=len(queued), error=str(error))

    def _forget(self, notice_ids: list[str]) -> None:
        with self._database.writing() as connection:
            notices.forget(connection, notice_ids)
