"""What a route is, said where it is written: who may call it, what it takes, what it answers, how it can refuse.

One description serves three readers: the gatekeeper (access), OpenAPI (`webapp/openapi.py`) and whoever reads the code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from marshmallow import Schema, fields

from schemas.params import Params

# anyone: no token. visitor: any session. user: a session whose role is not visitor (ORIG 1.5). administrator: a user whom
# `flask admin grant` has made one; to others the route does not exist. server: the bearer SERVER_API_KEY.
Access = Literal["anyone", "visitor", "user", "administrator", "server"]

# The shape of `data`. A text is that very text; None means no JSON envelope (an image, a page).
Answer = Schema | fields.Field[Any] | str

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Description:
    """One route.

    params: what path, query and body may hold. answer: shape of `data`; a text is that very text, None means no JSON
    envelope (an image, a page). failures: codes of the catalogue, besides those that follow from access and params.
    """

    summary: str
    access: Access
    params: Params | None
    answer: Answer | None
    failures: tuple[str, ...]
    also: Mapping[int, Answer | None] = field(default_factory=dict)  # answers of other statuses than 200
    media: str = "application/json"  # what is answered where `answer` is None
    file: str | None = None  # the field of a multipart body that holds a file; None: the body is JSON or a plain form


def describe(
    summary: str,
    *,
    access: Access,
    params: Params | None = None,
    answer: Answer | None = "ok",
    failures: tuple[str, ...] = (),
    also: Mapping[int, Answer | None] | None = None,
    media: str = "application/json",
    file: str | None = None,
) -> Callable[[View], View]:
    """Describe a view. Put it between the route and the function."""

    def attach(view: View) -> View:
        view.description = Description(summary, access, params, answer, failures, also or {}, media, file)  # type: ignore[attr-defined]
        return view

    return attach


def description_of(view: Callable[..., Any] | None) -> Description | None:
    """Return the description of a view, None where it has none."""
    return getattr(view, "description", None)
