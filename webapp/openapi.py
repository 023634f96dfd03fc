"""The OpenAPI document, made from the routes' own descriptions and schemas, so that it cannot say anything else than they.

Version 3.1 is for clients and tests. The page at `/docs` gets 3.0, which is what its viewer reads; there a parameter is
shown in its usual type only. What every failure means stands in `webapp/errors.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from marshmallow import Schema, fields
from werkzeug.routing import Rule

from schemas.params import MAX_INT, MAX_TEXT, IntParam, TextParam
from webapp.errors import FAILURES
from webapp.routes import Access, Answer, Description, description_of

Json = dict[str, Any]

_VARIABLE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_BODY_METHODS = {"POST", "PUT", "PATCH"}
_IMPLICIT_METHODS = {"HEAD", "OPTIONS"}
_ANY_VALUE = ["string", "number", "boolean", "object", "array"]
_NUMERIC = r"^\s*[+-]?\d{1,17}\s*$"

_SESSION = ("token_missing", "token_expired", "token_invalid", "user_disabled")
# What may be refused before the route's own work begins.
_OF_ACCESS: dict[Access, tuple[str, ...]] = {
    "anyone": (),
    "visitor": _SESSION,
    "user": (*_SESSION, "visitors_excluded"),
    "administrator": ("not_found",),
    "server": ("server_key_invalid",),
}
_TOKENS: list[dict[str, list[str]]] = [{"header": []}, {"bearer": []}, {"query": []}]
_SECURITY: dict[Access, list[dict[str, list[str]]]] = {
    "anyone": [],
    "visitor": _TOKENS,
    "user": _TOKENS,
    "administrator": _TOKENS,
    "server": [{"server": []}],
}
_SCHEMES: dict[str, Json] = {
    "header": {"type": "apiKey", "in": "header", "name": "token", "description": "a session's token"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "a session's token"},
    "query": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "a session's token; better not in a URL",
    },
    "server": {"type": "http", "scheme": "bearer", "description": "SERVER_API_KEY"},
}
_WHO: dict[Access, str] = {
    "anyone": "Anyone may call this.",
    "visitor": "Visitors and users may call this.",
    "user": "Users may call this, visitors may not.",
    "administrator": "Administrators may call this; to others it does not exist.",
    "server": "The host application calls this, with SERVER_API_KEY.",
}
# One for each blueprint, in the order in which one reads them: who one is, whom one knows, what is said, what operators call.
_TAGS = (
    "accounts",
    "tickets",
    "profile",
    "friends",
    "relations",
    "messages",
    "history",
    "forward",
    "groups",
    "uploads",
    "askanswers",
    "complaints",
    "admin",
    "webhooks",
    "health",
    "metrics",
    "documents",
    "media",
)
_ABOUT = """\
Every answer is `{"msg":"ok","data":…}` or `{"msg":"fail","data":"<text for people>","code":"<stable code>"}`. Texts are \
Chinese, or English with `Accept-Language: en`.

Parameters are looked for in path, query and body together: path wins over body, body over query. Bodies are JSON or \
forms. Every value is turned to text first, so `"7"` is as good as `7`; an empty text counts as missing. Where a parameter has a \
default, a value outside its bounds is replaced by it unless the failures name the parameter. No text may hold NUL.

A method that a path does not have is answered by 405 `method_not_allowed` with `Allow`, an unknown path by 404 `not_found`.
The frames of the websocket `/ws` are described by `/asyncapi.json`."""


def build_document(app: Flask, *, version: str = "3.1.0") -> Json:
    """Return the document of an app's routes. Raises KeyError: a route names a failure that the catalogue does not have."""
    plugin = SchemaPlugin()
    spec = APISpec(
        title="Hongyan 鸿雁",
        version="1",
        openapi_version=version,
        info={"description": _ABOUT},
        plugins=[plugin],
        tags=[{"name": tag} for tag in _TAGS],
    )
    for name, scheme in _SCHEMES.items():
        spec.components.security_scheme(name, scheme)
    writer = _Writer(plugin, is_new=version >= "3.1")
    for rule, description in described_rules(app):
        variables = _VARIABLE.findall(rule.rule)
        operations = {
            method.lower(): writer.operation(rule, description, method, variables) for method in _methods(rule)
        }
        spec.path(_VARIABLE.sub(r"{\1}", rule.rule), operations=operations)
    document: Json = spec.to_dict()
    for schema in document["components"].get("schemas", {}).values():
        schema.setdefault("additionalProperties", False)  # a member that nobody described is a mistake
    return document


def http_rules(app: Flask) -> list[Rule]:
    """Return the routes that are ours to describe: all but static files and the websocket."""
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint != "static" and not rule.websocket]
    return sorted(rules, key=lambda rule: rule.rule)


def described_rules(app: Flask) -> list[tuple[Rule, Description]]:
    """Return the routes that have a description, with it."""
    found = [(rule, description_of(app.view_functions[rule.endpoint])) for rule in http_rules(app)]
    return [(rule, description) for rule, description in found if description is not None]


def codes_of(description: Description, methods: Iterable[str], variables: Iterable[str]) -> tuple[str, ...]:
    """Return every failure that a route can answer with: its own, and those that follow from access and parameters."""
    codes = [*_OF_ACCESS[description.access], *description.failures]
    if description.params is not None or description.file is not None:
        codes.append("invalid")
    if any(variables):
        codes.append("not_found")  # an empty one, or one with a slash, is another path
    if _BODY_METHODS & set(methods):
        codes += ["too_large", "request_too_slow", "bad_request"]
    if description.access != "anyone" or description.params is not None:
        codes.append("unavailable")
    return tuple(dict.fromkeys(codes))


class SchemaPlugin(MarshmallowPlugin):
    """apispec's marshmallow plugin that knows our parameters: what a JSON body may hold for them."""

    def init_spec(self, spec: APISpec) -> None:
        super().init_spec(spec)
        assert self.converter is not None
        self.converter.add_attribute_function(_parameter_attributes)  # type: ignore[no-untyped-call]


def _parameter_attributes(converter: Any, field: fields.Field[Any], **_: Any) -> Json:
    if not isinstance(field, IntParam | TextParam):
        return {}
    return value_schema(field, is_wide=converter.openapi_version.major == 3 and converter.openapi_version.minor >= 1)


def value_schema(field: IntParam | TextParam, *, is_wide: bool) -> Json:
    """Return the JSON schema of a parameter. is_wide: everything a JSON body may hold for it, not its usual type only."""
    if isinstance(field, IntParam):
        shown = _int_schema(field)
        return shown | {"type": ["integer", "string"], "pattern": _NUMERIC} if is_wide else shown
    shown = _text_schema(field)
    return shown | {"type": _ANY_VALUE} if is_wide and not field.choices else shown


class _Writer:
    """Writes operations in one version of OpenAPI."""

    def __init__(self, plugin: MarshmallowPlugin, *, is_new: bool) -> None:
        self._plugin = plugin
        self._is_new = is_new

    def operation(self, rule: Rule, description: Description, method: str, variables: list[str]) -> Json:
        params = dict(description.params.fields) if description.params is not None else {}
        operation: Json = {
            "operationId": rule.endpoint.replace(".", "_") + (f"_{method.lower()}" if len(_methods(rule)) > 1 else ""),
            "tags": [rule.endpoint.partition(".")[0]],
            "summary": description.summary,
            "description": _WHO[description.access],
            "security": _SECURITY[description.access],
            "parameters": [self._parameter("path", name, params.pop(name, None)) for name in variables],
            "responses": self._responses(description, codes_of(description, [method], variables)),
        }
        if method not in _BODY_METHODS:
            operation["parameters"] += [self._parameter("query", name, field) for name, field in params.items()]
        elif description.file is not None:
            operation["requestBody"] = self._file_body(description.file, params)
        elif params:
            operation["requestBody"] = self._body(params)
        return operation

    def _parameter(self, place: str, name: str, field: fields.Field[Any] | None) -> Json:
        schema = {"type": "string"} if field is None else self._value(field, is_json=False)
        label = schema.pop("description", None)
        parameter: Json = {"in": place, "name": name, "schema": schema}
        if place == "path" or (field is not None and field.required):
            parameter["required"] = True
        return parameter | ({"description": label} if label else {})

    def _body(self, params: Mapping[str, fields.Field[Any]]) -> Json:
        required = [name for name, field in params.items() if field.required]

        def schema(*, is_json: bool) -> Json:
            properties = {name: self._value(field, is_json=is_json) for name, field in params.items()}
            return {"type": "object", "properties": properties} | ({"required": required} if required else {})

        return {
            "required": bool(required),
            "content": {
                "application/json": {"schema": schema(is_json=True)},
                "application/x-www-form-urlencoded": {"schema": schema(is_json=False)},
            },
        }

    def _file_body(self, file: str, params: Mapping[str, fields.Field[Any]]) -> Json:
        properties = {name: self._value(field, is_json=False) for name, field in params.items()}
        shown = {"type": "string", "format": "binary"}
        schema = {"type": "object", "properties": {**properties, file: shown}, "required": [file]}
        return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}

    def _value(self, field: fields.Field[Any], *, is_json: bool) -> Json:
        if isinstance(field, IntParam | TextParam):
            return value_schema(field, is_wide=is_json and self._is_new)
        assert self._plugin.converter is not None
        shown = dict(self._plugin.converter.field2property(field))
        label = {"description": getattr(field, "label", "")}
        if not is_json and shown.get("type") in ("array", "object"):
            return {"type": "string", "description": f"{label['description']}: its JSON text"}
        return shown | label

    def _responses(self, description: Description, codes: Iterable[str]) -> Json:
        responses: Json = {}
        for status, answer in {200: description.answer, **description.also}.items():
            responses[str(status)] = self._success(answer, description.media)
        by_status: dict[int, list[str]] = {}
        for code in codes:
            by_status.setdefault(FAILURES[code].status, []).append(code)
        for status, same in sorted(by_status.items()):
            failure = _failure(status, same)
            responses[str(status)] = failure
        return responses

    def _success(self, answer: Answer | None, media: str) -> Json:
        if answer is None:
            return {
                "description": "done",
                "content": {media: {"schema": {"type": "string"} if "json" not in media else {}}},
            }
        schema = {
            "type": "object",
            "required": ["msg", "data"],
            "properties": {"msg": {"type": "string", "enum": ["ok"]}, "data": self._data(answer)},
            "additionalProperties": False,
        }
        return {"description": "done", "content": {"application/json": {"schema": schema}}}

    def _data(self, answer: Answer) -> Json:
        if isinstance(answer, str):
            return {"type": "string", "enum": [answer]}
        if isinstance(answer, Schema):
            assert self._plugin.resolver is not None
            return dict(self._plugin.resolver.resolve_schema_dict(answer))  # type: ignore[no-untyped-call]
        assert self._plugin.converter is not None
        return dict(self._plugin.converter.field2property(answer))


def _methods(rule: Rule) -> list[str]:
    return sorted((rule.methods or set()) - _IMPLICIT_METHODS)


def _int_schema(field: IntParam) -> Json:
    bounds = {"minimum": field.min} | ({"maximum": field.max} if field.max < MAX_INT else {})
    default = field.default is not None and field.min <= field.default < MAX_INT
    return {"type": "integer", "description": field.label, **bounds} | ({"default": field.default} if default else {})


def _text_schema(field: TextParam) -> Json:
    shown: Json = {"type": "string", "description": field.label}
    if field.choices:
        shown["enum"] = list(field.choices)
    else:
        least = max(field.min, 1 if field.required else 0)
        shown |= {"minLength": least} if least else {}
        shown |= {"maxLength": field.max} if 0 < field.max < MAX_TEXT else {}
    return shown | ({"default": field.default} if field.default else {})


def _failure(status: int, codes: list[str]) -> Json:
    lines = [f"`{code}`: {FAILURES[code].en} ({FAILURES[code].zh})" for code in codes]
    schema = {
        "type": "object",
        "required": ["msg", "data", "code"],
        "properties": {
            "msg": {"type": "string", "enum": ["fail"]},
            "data": {"type": "string", "description": "for people"},
            "code": {"type": "string", "enum": codes},
        },
        "additionalProperties": False,
    }
    response: Json = {
        "description": "\n\n".join(lines),
        "content": {"application/json": {"schema": schema}},
    }
    if status in (429, 503):
        seconds = {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}
        response["headers"] = {"Retry-After": seconds}
    return response
