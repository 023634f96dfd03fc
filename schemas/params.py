"""Parameters as ORIG 1.2 reads them: turned to text first, "" counts as missing, one error text for the first fault.

Fields are declared in ORIG's order; `Params.read` gives the values or raises InvalidParams with the text a client may show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from marshmallow import EXCLUDE, Schema, ValidationError, fields, missing

MAX_INT = 10_000_000_000_000_000
MAX_TEXT = 10_000_000

_INT = re.compile(r"[+-]?[0-9]+\Z")
_INT_MAX_CHARACTERS = 400  # more are never in a range, and converting them would take long


class Fault(str):
    """What is wrong with a parameter: ORIG's text, which names its label, and in English one that names the parameter."""

    en: str

    def __new__(cls, text: str, en: str) -> Fault:
        fault = super().__new__(cls, text)
        fault.en = en
        return fault


class InvalidParams(Exception):
    """A parameter is missing or wrong. `text` is ORIG's text for the first fault, `field` its parameter."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field
        self.text = text

    def told(self, language: str) -> str:
        """Return the text in a language."""
        if language != "en":
            return self.text
        return self.text.en if isinstance(self.text, Fault) else f"`{self.field}` is not valid"


def as_text(value: Any) -> str:
    """Turn a JSON value to the text ORIG's validator works on: objects and arrays become their JSON text."""
    if isinstance(value, str):
        return value
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:  # orjson reads deeper than it writes
        raise ValidationError(Fault("参数嵌套过深", "A parameter is nested too deeply")) from error


class TextParam(fields.Field[str]):
    """A text of `min` to `max` characters, or one of `choices`. is_strict: an invalid one is not replaced by the default."""

    def __init__(
        self,
        label: str,
        *,
        min: int = 0,
        max: int = 0,
        choices: Sequence[str] = (),
        default: str | None = None,
        is_strict: bool = False,
    ) -> None:
        super().__init__(required=default is None, load_default=missing if default is None else default)
        self.label, self.min, self.max, self.choices, self.default = label, min, max, choices, default
        self.is_strict = is_strict

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        text = as_text(value)
        fault = self._fault(text)
        if fault is None:
            return text
        if self.default is not None and not self.is_strict:
            return self.default
        raise ValidationError(fault)

    def _fault(self, text: str) -> Fault | None:
        if "\0" in text:
            return Fault(f"{self.label} 的值包含非法字符", f"`{self.name}` holds a character that is not allowed")
        if self.choices and text not in self.choices:
            choices = [f"`{choice}`" for choice in self.choices]
            return Fault(
                f"{self.label} 的值 `{text}` 必须在 [{'、'.join(choices)}] 中",
                f"`{self.name}` is `{text}`, which is none of {', '.join(choices)}",
            )
        most = self.max or MAX_TEXT
        if (self.min or self.max) and not self.min <= len(text) <= most:
            return Fault(
                f"{self.label} 的长度 必须 在 {self.min} 和 {most} 之间",
                f"`{self.name}` must have {self.min} to {most} characters",
            )
        return None


class IntParam(fields.Field[int]):
    """A whole number from `min` to `max`, also as numeric text. is_strict: an invalid one is not replaced by the default."""

    def __init__(
        self, label: str, *, min: int = 0, max: int = MAX_INT, default: int | None = None, is_strict: bool = False
    ) -> None:
        super().__init__(required=default is None, load_default=missing if default is None else default)
        self.label, self.min, self.max, self.default, self.is_strict = label, min, max, default, is_strict

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> int:
        text = as_text(value).strip()
        if not _INT.match(text):
            fault = Fault(
                f"{self.label} 的值 `{text[:100]}` 的类型不是 `int`",
                f"`{self.name}` is `{text[:100]}`, which is no whole number",
            )
        elif len(text) > _INT_MAX_CHARACTERS or not self.min <= int(text) <= self.max:
            fault = Fault(
                f"{self.label} 的数值 必须 在 {self.min} 和 {self.max} 之间",
                f"`{self.name}` must be a number from {self.min} to {self.max}",
            )
        else:
            return int(text)
        if self.default is not None and not self.is_strict:
            return self.default
        raise ValidationError(fault)


class Params(Schema):
    """Base of the parameter schemas."""

    class Meta:
        unknown = EXCLUDE

    def read(self, *sources: Mapping[str, Any]) -> dict[str, Any]:
        """Validate the parameters found in any of the sources; a later source wins. Raises InvalidParams."""
        given: dict[str, Any] = {}
        for source in sources:
            given.update((name, value) for name, value in source.items() if value is not None and value != "")
        values: dict[str, Any] = {}
        # Field by field in ORIG's order, since the first fault is told: `load` would collect all of them.
        for name, field in self.fields.items():
            if name not in given:
                if field.required:
                    label = getattr(field, "label", None) or name
                    raise InvalidParams(name, Fault(f"{label}不能为空", f"`{name}` is missing"))
                if field.load_default is not missing:
                    values[name] = field.load_default
                continue
            try:
                # `deserialize` would look for what is missing and for validators besides: here is neither.
                values[name] = field._deserialize(given[name], name, given)
            except ValidationError as error:
                raise InvalidParams(name, error.messages[0]) from error
        return values
