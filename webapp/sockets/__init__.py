"""Websocket sessions: the endpoint, the connections of this process, and how news from drains reaches them."""
