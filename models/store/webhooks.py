"""The leases of webhooks: who holds one delivers, so that no two workers post the same events at once."""

from __future__ import annotations

from collections.abc import Sequence

from models.store import keys
from models.store.connection import SCRIPTS, Client, run


def take_leases(client: Client, webhook_ids: Sequence[int], token: str, lease_ms: int) -> list[int]:
    """Take leases; return the webhooks whose lease is ours now. Raises StoreUnavailable."""
    return _lease(client, webhook_ids, token, lease_ms, token)


def renew_leases(client: Client, webhook_ids: Sequence[int], token: str, lease_ms: int) -> list[int]:
    """Renew leases that are ours; return the webhooks whose lease has not run out. Raises StoreUnavailable."""
    return _lease(client, webhook_ids, token, lease_ms, "")


def release_lease(client: Client, webhook_id: int, token: str) -> None:
    """Give a lease back, if it is still ours. Raises StoreUnavailable: it runs out by itself."""
    run(client, [SCRIPTS["release_lease"].call([keys.webhook_lease(webhook_id)], [token])])


def _lease(client: Client, webhook_ids: Sequence[int], token: str, lease_ms: int, holder: str) -> list[int]:
    names = [keys.webhook_lease(webhook_id) for webhook_id in webhook_ids]
    kept = run(client, [SCRIPTS["take_lease"].call([name], [token, lease_ms, holder]) for name in names])
    return [webhook_id for webhook_id, is_ours in zip(webhook_ids, kept, strict=True) if is_ours]
