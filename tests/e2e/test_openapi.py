"""The documents about the API say what the routes and frames are: complete, loadable, true of what a live instance answers."""

from __future__ import annotations

import ast
import http.client
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from flask import Flask

from schemas import frames_described
from settings import load_settings
from tests.support.acting import hello_of, open_socket
from tests.support.client import ChatSocket, Frame, HttpClient
from tests.support.instance import Instance
from webapp import create_app
from webapp.asyncapi import HANDSHAKE_FAILURES, SEND_FAILURES
from webapp.errors import FAILURES
from webapp.openapi import build_document, codes_of, described_rules, http_rules
from webapp.routes import description_of

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("var")))
        patch.setenv("DATABASE_URL", "")
        patch.setenv("REDIS_URL", "")
        yield create_app(load_settings())


# Complete


def test_what_is_not_ready_is_told(app: Flask) -> None:
    """A system of which nothing runs answers as every refusal does, and names what does not answer."""
    answer = app.test_client().get("/readyz", headers={"Accept-Language": "en"})

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    body = answer.get_json()
    assert body == {"msg": "fail", "data": body["data"], "code": "not_ready"}
    assert re.fullmatch("Not ready: (database, )?redis, listener, worker", body["data"])


def test_a_path_with_a_double_slash_is_unknown(app: Flask) -> None:
    """In the envelope, as every unknown path: no redirect, which would be a page."""
    answer = app.test_client().get("/api//chat/history")

    assert (answer.status_code, answer.json) == (404, {"msg": "fail", "data": "404 错误", "code": "not_found"})


@pytest.mark.parametrize(("path", "method"), [("/api/chat/history", "GET"), ("/api/chat/block/1", "POST")])
def test_a_route_tells_its_methods_to_whoever_asks(app: Flask, path: str, method: str) -> None:
    """Each time, also where it is known from the time before which route the path leads to."""
    client = app.test_client()

    for asked in ("OPTIONS", "OPTIONS", "DELETE", "DELETE"):
        assert method in client.open(path, method=asked).headers["Allow"].split(", ")


def test_where_a_key_is_wanted_its_kind_is_named(app: Flask) -> None:
    """A 401 without a challenge is none (RFC 9110, section 15.5.2)."""
    client = app.test_client()
    proxied = client.get("/metrics", headers={"Forwarded": "for=192.0.2.1"}, environ_base={"REMOTE_ADDR": "127.0.0.1"})

    for answer in (client.post("/api/admin/tokens", json={"external_id": "x"}), proxied):
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_every_route_is_described(app: Flask) -> None:
    """Whoever adds a route says who may call it, what it takes and what it answers."""
    undescribed = [rule.rule for rule in http_rules(app) if description_of(app.view_functions[rule.endpoint]) is None]

    assert undescribed == []


def test_every_code_that_is_raised_is_in_the_catalogue_and_on_a_route(app: Flask) -> None:
    """No client meets a code that the documents do not name."""
    documented = {
        code
        for rule, description in described_rules(app)
        for code in codes_of(description, rule.methods or (), rule.arguments)
    }

    raised = _raised_codes()

    assert len(raised) > 10
    assert raised - set(FAILURES) == set()
    over_sockets = {*HANDSHAKE_FAILURES, *SEND_FAILURES}
    assert raised - documented - over_sockets == set()


def test_every_code_of_the_catalogue_can_happen(app: Flask) -> None:
    """A failure that nothing names any more is removed from the catalogue."""
    assert set(FAILURES) - set(_texts()) == set()


def test_both_versions_of_the_document_are_valid_and_say_the_same_routes(app: Flask) -> None:
    """The page's 3.0 has the paths and statuses of the 3.1."""
    new, old = build_document(app), build_document(app, version="3.0.3")

    assert new["openapi"] == "3.1.0"
    assert old["openapi"] == "3.0.3"
    assert {path: list(item) for path, item in new["paths"].items()} == {
        path: list(item) for path, item in old["paths"].items()
    }
    assert not re.search(r'"type": \[', json.dumps(old))  # 3.0 has no lists of types


def test_the_page_begins_with_how_to_log_in(app: Flask) -> None:
    """Its viewer shows groups in the order of `tags`, and those that are not among them behind."""
    document = build_document(app, version="3.0.3")
    order = [tag["name"] for tag in document["tags"]]

    used = {tag for item in document["paths"].values() for operation in item.values() for tag in operation["tags"]}
    assert sorted(order) == sorted(used)
    assert order[0] in document["paths"]["/api/loginChat"]["post"]["tags"]


def _sources() -> list[Path]:
    return [path for path in (_ROOT / "webapp").rglob("*.py") if path.name != "errors.py"]


def _texts() -> Iterator[str]:
    for part in ("webapp", "tasks", "models"):
        for path in (_ROOT / part).rglob("*.py"):
            if path != _ROOT / "webapp" / "errors.py":
                for node in ast.walk(ast.parse(path.read_text())):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str):
                        yield node.value


def _raised_codes() -> set[str]:
    """Return the codes in calls of ApiError and its kinds, read from the source."""
    found = set()
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                first = node.args[0]
                is_error = node.func.id in {"ApiError", "UserMissing"}
                if is_error and isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
    return found


# Served


def _fetch(instance: Instance, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=10.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def test_the_page_loads_nothing_from_elsewhere(instance: Instance) -> None:
    """Whatever /docs refers to is served by the instance itself, and the browser is told to refuse anything else."""
    status, headers, page = _fetch(instance, "/docs")
    assert status == 200
    assert headers.get_content_type() == "text/html"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "://" not in policy
    assert "unsafe-eval" not in policy

    files = re.findall(r'(?:src|href)="([^"]+)"', page.decode())

    assert len(files) >= 5
    assert [file for file in files if not re.match(r"/(?!/)", file)] == []
    for file in files:
        assert _fetch(instance, file)[0] == 200, file
    script = _fetch(instance, "/static/docs/page.js")[2].decode()
    assert "://" not in script
    styles = [_fetch(instance, file)[2].decode() for file in files if file.endswith(".css")]
    assert [url for style in styles for url in re.findall(r"url\(([^)]*)\)", style) if "data:" not in url] == []


def test_the_viewer_serves_its_own_files_and_no_others(instance: Instance) -> None:
    for name in ("index.html", "..%2f..%2f__init__.py", "swagger-ui.js", "%00"):
        assert _fetch(instance, f"/docs/viewer/{name}")[0] == 404, name


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/openapi.json", "/asyncapi.json"])
def test_documents_refer_only_to_what_they_hold(instance: Instance, path: str) -> None:
    """Every $ref leads to something."""
    status, headers, text = _fetch(instance, path)
    document = json.loads(text)

    assert status == 200
    assert headers.get_content_type() == "application/json"
    references = set(re.findall(r'"\$ref":"#/([^"]+)"', text.decode()))
    assert references
    for reference in references:
        place: Any = document
        for part in reference.split("/"):
            place = place[part]


# True of live sockets


def _validators(document: dict[str, Any], channel: str) -> dict[str, Any]:
    """Return a validator for each frame that the server sends on a channel."""
    found = {}
    for reference in document["operations"][f"{channel}Send"]["messages"]:
        name = reference["$ref"].rpartition("/")[2]
        payload = document["components"]["messages"][name]["payload"]
        found[name] = jsonschema_rs.Draft202012Validator({**payload, "components": document["components"]})
    return found


def _kinds(document: dict[str, Any], channel: str, frames: list[Frame]) -> set[str]:
    """Return by which of a channel's schemas the frames are described; each by one at least."""
    validators = _validators(document, channel)
    seen = set()
    for frame in frames:
        matching = {name for name, validator in validators.items() if validator.is_valid(frame.data)}
        assert matching, f"{channel} describes no such frame: {frame.data}"
        seen |= matching
    return seen


def test_frames_of_live_sockets_are_as_described(instance: Instance, friends: tuple[int, int]) -> None:
    """Everything that two users' sockets are sent in both protocols is valid by /asyncapi.json."""
    me, you = friends
    document = json.loads(_fetch(instance, "/asyncapi.json")[2])
    token = instance.tokens[me]
    mine, yours = HttpClient(instance.base, token), HttpClient(instance.base, instance.tokens[you])

    with open_socket(instance, me, 2) as new, open_socket(instance, you, 1) as old:
        hello = hello_of(new)
        new.send_json({"type": "ping"})
        new.send_json({"type": "send", "ref": "r", "message": _message(you, "over the socket")})
        new.send_json({"type": "send", "ref": 1, "message": {"clientMsgId": "x"}})
        new.send_json({"type": "send", "ref": None, "message": _message(me, "to myself")})
        old.wait_for_text("over the socket")
        old.send_text("ping")
        status, answer = yours.send(me, "back")
        assert status == 200
        assert yours.post("/api/chat/revokeMessage", _recall(me, answer["data"]["id"]))[0] == 200
        assert mine.send(1, "in the group", "group")[0] in (200, 400)
        recalled = new.wait_for(lambda frame: _action(frame) == "revoke")
        new.send_json({"type": "ack", "cursor": recalled.data["cursor"]})
        _wait_for_types(new, "pong", "sendResult")
        _wait_for_types(old, "pong")
        new_frames, old_frames = list(new.frames), list(old.frames)
    with open_socket(instance, me, 2, cursor=10_000, epoch=str(hello["epoch"])) as lost:
        lost.wait_for(lambda frame: frame.data.get("type") == "reset")
        new_frames += lost.frames
    with ChatSocket(instance.base, token, 2, query={"notices": "1"}) as greeted:
        greeted.wait_for(lambda frame: frame.data.get("type") == "singleChat")
        new_frames += greeted.frames
    with ChatSocket(instance.base, "no token", 2) as refused:
        refused.wait_closed()
        new_frames += refused.frames
    with ChatSocket(instance.base, "no token") as refused:
        refused.wait_closed()
        old_frames += refused.frames

    seen_new = _kinds(document, "protocol2", new_frames)
    seen_old = _kinds(document, "protocol1", old_frames)

    assert {"Welcome", "Hello", "ChatEntry", "Chat", "Reset", "SendStored", "SendRefused", "Pong", "Failed"} <= seen_new
    assert {"Welcome", "Chat", "Pong", "PlainFailed"} <= seen_old


def test_every_described_frame_says_which_it_is() -> None:
    """No two frames of the same direction are told apart by luck: each has its `type`, or is the failure."""
    for frame in {*frames_described.FROM_SERVER_1, *frames_described.FROM_SERVER_2}:
        assert "type" in frame().fields or issubclass(frame, frames_described.PlainFailed)


def _message(to_id: int, text: str) -> dict[str, Any]:
    body = json.dumps({"data": text, "dataType": False, "otherData": None})
    ids = {"sendto_id": to_id, "chatType": "single", "clientMsgId": uuid.uuid4().hex}
    return {**ids, "type": "text", "data": body, "options": "{}"}


def _recall(to_id: int, message_id: str) -> dict[str, Any]:
    return {"to_id": to_id, "id": message_id, "chatType": "single"}


def _action(frame: Frame) -> Any:
    data = frame.data.get("data")
    return data.get("actionType") if isinstance(data, dict) else None


def _wait_for_types(socket: ChatSocket, *kinds: str) -> None:
    for kind in kinds:
        socket.wait_for(lambda frame, kind=kind: frame.data.get("type") == kind)  # type: ignore[misc]
