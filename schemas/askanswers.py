"""Parameters and answers of the routes about questions and answers (ORIG 6.6).

What is missing has ORIG's text and status, so nothing is required here but by the routes; what is malformed is 422.
"""

from __future__ import annotations

from marshmallow import fields

from schemas.answers import Exact, number, one_of, text, truth
from schemas.params import IntParam, Params, TextParam

ASK_MAX, ANSWER_MAX, TEXT_MAX = 200, 1_000, 500
MAX_PAGE = 100


def _type() -> TextParam:
    return TextParam("问答类型", choices=("single", "group"), default="", is_strict=True)


def _ask() -> TextParam:
    return TextParam("问题", min=1, max=ASK_MAX, default="", is_strict=True)


def _answer() -> TextParam:
    return TextParam("回答", min=1, max=ANSWER_MAX, default="", is_strict=True)


def _id(label: str) -> IntParam:
    return IntParam(label, min=1, default=0, is_strict=True)


class CreateAskAnswerParams(Params):
    ask = _ask()
    answer = _answer()
    type = _type()
    create_userId = _id("用户id或者群id")


class UpdateAskAnswerParams(Params):
    id = _id("问答id")
    ask = _ask()
    answer = _answer()


class AskAnswerParams(Params):
    id = _id("问答id")


class AskAnswersParams(Params):
    type = _type()
    userId = _id("用户id或者群id")
    page = IntParam("页码", min=1, default=1)
    limit = IntParam("每页多少条", min=1, max=MAX_PAGE, default=MAX_PAGE)


class SearchAskAnswersParams(Params):
    ask = TextParam("问题", min=1, max=TEXT_MAX, default="", is_strict=True)
    type = _type()
    create_userId = _id("用户id或者群id")


class AskAnswer(Exact):
    """A question with its answer."""

    id = number()
    ask = text()
    answer = text()
    type = one_of("single", "group")
    create_userId = number(description="the user, of type `group` the group, whose it is")
    create_time = number(description="milliseconds, UTC")
    update_time = number(description="milliseconds, UTC")
    likeCount = number()
    liked = truth()


class FoundAskAnswer(AskAnswer):
    """What answers best."""

    score = fields.Float(required=True, metadata={"description": "5 where only a looser way found it"})


CREATE_ASKANSWER_PARAMS = CreateAskAnswerParams()
UPDATE_ASKANSWER_PARAMS = UpdateAskAnswerParams()
ASKANSWER_PARAMS = AskAnswerParams()
ASKANSWERS_PARAMS = AskAnswersParams()
SEARCH_ASKANSWERS_PARAMS = SearchAskAnswersParams()
