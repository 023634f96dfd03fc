"""The short form of `make fuzz`: made-up requests to every route, as everybody, are answered as /openapi.json says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import api_fuzz
from tests.conftest import InstanceFactory
from tests.support.client import HttpClient
from tests.support.instance import Instance

_EXAMPLES = 2
_SEED = 20_261_123


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Instance]:
    with api_fuzz.start() as instance:
        yield instance


def test_made_up_requests_are_answered_as_described(fuzzed: Instance) -> None:
    """Some hundred calls: no crash, no status, content type or shape that the document does not have."""
    report = api_fuzz.fuzz(fuzzed, examples=_EXAMPLES, seed=_SEED)

    assert report.calls > 300
    assert not report.failures, str(report)


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        (lambda operation: operation["responses"].pop("200"), "UndefinedStatusCode"),
        (lambda operation: _data_of(operation).update(properties={}, required=[]), "JsonSchemaError"),
        (lambda operation: _data_of(operation)["properties"].update(process={"type": "integer"}), "JsonSchemaError"),
        (
            lambda operation: operation["responses"]["200"].update(content={"text/html": {}}),
            "UndefinedContentType",
        ),
    ],
    ids=["status", "unknown member", "other type", "content type"],
)
def test_an_answer_that_is_not_as_described_is_noticed(fuzzed: Instance, lie: Any, found: str) -> None:
    """With a document that lies about /healthz, the fuzz says so: it can fail."""

    def change(document: dict[str, Any]) -> None:
        operation = document["paths"]["/healthz"]["get"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        schema["properties"]["data"] = dict(document["components"]["schemas"]["Health"])
        lie(operation)

    report = api_fuzz.fuzz(fuzzed, examples=1, seed=_SEED, only="/healthz", change=change)

    assert {what for _, _, what in report.failures} == {found}


def _data_of(operation: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["data"]
    return data


def test_an_id_that_no_column_holds_is_nobody_s(fresh_instance: InstanceFactory, postgres_url: str) -> None:
    """PostgreSQL answers an id beyond 32 bits with an error, which once left a send undecided. It is an unknown id."""
    instance = fresh_instance(DATABASE_URL=postgres_url)
    client = HttpClient(instance.base, instance.seed(2, 0)[1])

    for nobody in (2**31 - 1, 2**31, 10**16):
        answers = (
            client.send(nobody, "to nobody"),
            client.send(nobody, "to no group", "group"),
            client.post("/api/chat/revokeMessage", {"to_id": nobody, "id": "none", "chatType": "single"}),
            client.post(f"/api/chat/block/{nobody}", {"block": 1}),
            client.post(f"/api/chat/follow/{nobody}", {"follow": 1}),
            client.post(f"/api/chat/requests/{nobody}", {"accept": 1}),
        )
        explained = client.post("/api/chat/policy/explain", {"sendto_id": nobody, "chatType": "single"})

        assert [(status, body.get("code")) for status, body in answers] == [
            (400, "recipient_unavailable"),
            (400, "group_unavailable"),
            (400, "message_not_found"),
            (404, "not_found"),
            (404, "not_found"),
            (404, "not_found"),
        ]
        assert explained[1]["data"]["code"] == "recipient_unavailable"
