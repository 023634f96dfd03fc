"""What is remembered: SQL tables with the operations on them (one module per noun), and `store/` for Redis.

Operations take a connection of `database.Database` and give plain values. No chat rule lives here: `tasks/policy.py` decides.
"""
