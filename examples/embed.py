"""A host application lets its own users chat. SERVER_API_KEY=$(cat var/server_api_key) python examples/embed.py"""

import json
import os
from typing import Any

import requests
import websocket

BASE = os.environ.get("HONGYAN_URL", "http://127.0.0.1:8000")
KEY = os.environ["SERVER_API_KEY"]  # stays on the host application's server


def post(path: str, params: dict[str, Any], **headers: str) -> Any:
    answer = requests.post(f"{BASE}/api/{path}", json=params, headers=headers, timeout=10).json()
    if answer["msg"] != "ok":
        raise SystemExit(f"{path}: {answer['data']} ({answer['code']})")
    return answer["data"]


def log_in(external_id: str, nickname: str) -> Any:
    """On the server: log in a user under the id that the application has for him; who is unknown is created."""
    return post("admin/tokens", {"external_id": external_id, "nickname": nickname}, Authorization=f"Bearer {KEY}")


customer, seller = log_in("customer-17", "Customer"), log_in("seller-3", "Seller")
everybody = json.dumps({"chatset": {"user": {"sendCount": 2}}})  # 2: strangers may send the seller what they like
post("chat/userset", {"userset": everybody}, token=seller["token"])

# In the seller's page: the token stays in a header, the ticket opens one socket and is worthless afterwards.
ticket = post("chat/ticket", {}, token=seller["token"])["ticket"]
socket = websocket.create_connection(f"{BASE.replace('http', 'ws', 1)}/ws?v=2&ticket={ticket}", timeout=10)
message = {"sendto_id": seller["id"], "chatType": "single", "type": "text", "data": "Is it still available?"}
sent = post("chat/socket/sendmessage", message, token=customer["token"])
while (frame := json.loads(socket.recv()))["type"] != "singleChat" or frame["data"]["id"] != sent["id"]:
    print("before it:", frame["type"])  # hello, and what came while he was away
socket.send(json.dumps({"type": "ack", "cursor": frame["cursor"]}))
print(frame["data"]["from_name"], "asks:", frame["data"]["data"])
