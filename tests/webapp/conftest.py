"""The private Redis of the store's tests, for what of a web process talks to Redis."""

from tests.store.conftest import client as client
from tests.store.conftest import redis_url as redis_url
