"""Session ends: a session that is over admits nobody, and its sockets close wherever they live (ORIG A13, contract 8)."""

from __future__ import annotations

from typing import Literal

# relogin: the same device has logged in again; its older sockets get the forced-logout notice first (ORIG 2.7, A7).
Cause = Literal["logout", "relogin", "password", "disabled"]


class SessionEnds:
    """Ends sessions that SQL has ended already: call it after the commit, before the answer."""

    def end(self, user_id: int, device: str, cause: Cause) -> None:
        """End the device's session. Raises StoreUnavailable: ended or not is unknown, repeating is safe."""
        raise NotImplementedError

    def end_all(self, user_id: int, cause: Cause, *, but_device: str | None = None) -> None:
        """End the sessions of all the user's devices but one. Raises StoreUnavailable."""
        raise NotImplementedError
