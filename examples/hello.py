import json

import requests
import websocket

api, account = "http://127.0.0.1:8000/api", {"password": "hongyan-demo", "device": "hello"}
lina = requests.post(f"{api}/loginChat", {"username": "demo-lina", **account}).json()["data"]
wang = requests.post(f"{api}/loginChat", {"username": "demo-wang", **account}).json()["data"]
socket = websocket.create_connection(f"ws://127.0.0.1:8000/ws?v=2&token={wang['token']}")
message = {"sendto_id": wang["id"], "chatType": "single", "type": "text", "data": "hi"}
sent = requests.post(f"{api}/chat/socket/sendmessage", message, headers={"token": lina["token"]}).json()["data"]
while (frame := json.loads(socket.recv()))["type"] != "singleChat" or frame["data"]["id"] != sent["id"]:
    print("before it:", frame["type"])
print(frame["data"]["from_name"], "says", frame["data"]["data"])
