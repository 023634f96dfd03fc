"""Every table of the database. Importing this module makes `db.metadata` whole, for migrations and tests."""

from models.applications import FriendApplication
from models.askanswers import AskAnswer
from models.audiences import Audience
from models.blocks import Block
from models.complaints import Complaint
from models.first_contacts import FirstContact
from models.follows import Follow
from models.friendships import Friendship
from models.groups import Group, GroupMember
from models.messages import Message
from models.notices import PendingNotice
from models.positions import DevicePosition
from models.profiles import UserInfo
from models.questions import PendingAnswer
from models.read_markers import ReadMarker
from models.sessions import ChatSession
from models.shards import Shard
from models.takeovers import Takeover
from models.users import User
from models.webhooks import Webhook, WebhookAttempt

__all__ = [
    "AskAnswer",
    "Audience",
    "Block",
    "ChatSession",
    "Complaint",
    "DevicePosition",
    "FirstContact",
    "Follow",
    "FriendApplication",
    "Friendship",
    "Group",
    "GroupMember",
    "Message",
    "PendingAnswer",
    "PendingNotice",
    "ReadMarker",
    "Shard",
    "Takeover",
    "User",
    "UserInfo",
    "Webhook",
    "WebhookAttempt",
]
