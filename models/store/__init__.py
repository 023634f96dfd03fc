"""What is remembered in Redis: outbox, inboxes, chat logs, presence, the bus. The only package that imports redis.

Every key is named in `keys.py`; every operation on more than one key of an owner is one script in `scripts/`, and no
script but `accept` touches two owners (two hash tags), so that Redis Cluster stays possible (decision 0006).
"""
