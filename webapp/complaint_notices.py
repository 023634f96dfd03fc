"""What the author of a complaint is told when an administrator has dealt with it. Pure."""

from __future__ import annotations

from typing import Any

from models import complaints, notices
from models.requests import Request
from models.users import Person

_STATES = {
    complaints.PENDING: "待处理",
    complaints.PROCESSING: "处理中",
    complaints.HANDLED: "已处理",
    complaints.CLOSED: "已关闭",
}


def handled(author: Person, complaint: Any, status: int, reply: str | None, media_url: str) -> Request:
    """Tell the author the status of his complaint, and the reply. It stands in no conversation: nobody said anything."""
    # One for each complaint, and without a page to open: of those that open one the legacy client shows the first only.
    notice_id = f"redirect-complaint-{complaint.id}"
    text = f"您对[{complaint.target_name}]的投诉{_STATES[status]}" + (f"，管理员回复：\n\n {reply}" if reply else "")
    message = {
        "from_avatar": f"{media_url}kefu.png",
        "from_name": "投诉处理提醒",
        "from_id": notice_id,
        "to_id": author.id,
        "to_name": author.public_name,
        "to_avatar": author.avatar,
        "chatType": "single",
        "type": "systemNotice",
        "data": {"data": text, "dataType": False, "otherData": None},
        "redirect": None,
        "options": {},
        "group": {},
        "msgidKey": notice_id,
    }
    return notices.build(
        "single", about_id=author.id, to_id=author.id, conversation=f"system:{author.id}", message=message
    )
