"""The only reader of the environment. Everything else receives a `Settings`.

Each field says its unit, its default and who uses it. Values come from environment variables, also from a `.env` file beside
this one (the environment wins). What is generated on first run (secrets) is kept under `DATA_DIR`.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import limits
from environs import Env, EnvError, validate

_ROOT = Path(__file__).resolve().parent
# A unix socket path longer than this cannot be bound: sockaddr_un.sun_path holds 108 bytes with its final NUL.
_MAX_SOCKET_PATH_BYTES = 100
_MIN_SECRET_BYTES = 32
_MIN_SECRET_CHARACTERS = 10  # different ones: 32 random bytes in hexadecimal have fewer once in some 10 ** 12
_NO_PATH_OF_URLS = re.compile("[?#;]|%[0-9A-Fa-f]{2}")  # Celery reads several brokers where there is a ;
_LANGUAGES = ("zh", "en")
_PUBLIC_PROFILES = ("minimal", "original")
_ENVIRONMENTS = ("development", "production")
_SENTINEL_SCHEME = "redis+sentinel://"
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://", _SENTINEL_SCHEME)
# What is installed can speak: of others SQLAlchemy and kombu say no more than that a module is missing, and after the start.
_DATABASE_SCHEMES = ("postgresql+psycopg://", "postgresql://", "sqlite://", "sqlite+pysqlite://")
_BROKER_SCHEMES = ("amqp://", "amqps://", "pyamqp://", "redis://", "rediss://", "redis+socket://", "sentinel://")


class SettingsError(Exception):
    """A setting is missing, malformed or unsafe. The text names the variable and the remedy."""


@dataclass(frozen=True, slots=True)
class Settings:
    # Where it runs (wsgi, supervise)
    production: bool  # HONGYAN_ENV=production: weak secrets and load-seed are refused
    host: str  # HOST, address of the web port
    port: int  # PORT
    flower_port: int  # FLOWER_PORT, always bound to loopback
    flower_basic_auth: str  # FLOWER_BASIC_AUTH, "user:password"
    data_dir: Path  # DATA_DIR, everything the embedded default writes
    web_processes: int  # WEB_PROCESSES
    worker_processes: int  # WORKER_PROCESSES, workers of the queue `drain`

    # What it talks to (models, tasks)
    database_url: str  # DATABASE_URL, SQLAlchemy URL; a file of SQLite by its absolute path
    redis_url: str  # REDIS_URL, or the embedded Redis's socket
    is_redis_embedded: bool  # True where REDIS_URL is unset
    broker_url: str  # CELERY_BROKER_URL, kombu URL

    # Who may come in (webapp)
    jwt_secret: str  # JWT_SECRET
    token_ttl_seconds: int  # TOKEN_TTL_SECONDS, lifetime of a session
    visitor_salt: str  # VISITOR_SALT, ORIG 1.7
    server_api_key: str  # SERVER_API_KEY, for POST /api/admin/tokens
    allowed_origins: tuple[str, ...]  # ALLOWED_ORIGINS, empty = same origin
    trusted_proxies: tuple[str, ...]  # TRUSTED_PROXIES, addresses or networks
    metrics_token: str | None  # METRICS_TOKEN, None = direct loopback only

    # How it answers (webapp)
    send_wait_seconds: float  # SEND_WAIT_SECONDS, how long a send waits for its verdict
    media_url: str  # MEDIA_URL, base of the icons in notices (ORIG's <B>)
    language: str  # LANGUAGE, "zh" or "en"
    shows_public_ids: (
        bool  # PUBLIC_PROFILE=original: anybody reads a user's id and how strangers may write to him (E23)
    )
    rate_limit_sends: str  # RATE_LIMIT_SENDS, per user
    rate_limit_auth: str  # RATE_LIMIT_AUTH, per client address
    rate_limit_frames: str  # RATE_LIMIT_FRAMES, per socket
    rate_limit_connects: str  # RATE_LIMIT_CONNECTS, per user and web process

    # Bounds (webapp, tasks, models)
    message_max_bytes: int  # MESSAGE_MAX_BYTES, UTF-8 bytes of `data`; `options` half of it
    body_max_bytes: int  # BODY_MAX_BYTES, an HTTP request body
    frame_max_bytes: int  # FRAME_MAX_BYTES, one websocket message from a client
    socket_outbox_max_bytes: int  # SOCKET_OUTBOX_MAX_BYTES, unsent bytes of one socket before it is cut off
    sockets_per_user: int  # SOCKETS_PER_USER
    devices_per_user: int  # DEVICES_PER_USER
    group_max_members: int  # GROUP_MAX_MEMBERS
    complaints_per_user: int  # COMPLAINTS_PER_USER, that nobody has settled
    answers_per_owner: int  # ANSWERS_PER_OWNER, questions with their answer of a user or group
    inbox_max_entries: int  # INBOX_MAX_ENTRIES, unacknowledged entries kept per user
    chatlog_max_entries: int  # CHATLOG_MAX_ENTRIES, entries of a conversation kept in Redis
    web_max_connections: int  # WEB_MAX_CONNECTIONS, per web process
    request_max_seconds: float  # REQUEST_MAX_SECONDS, to send a request's head, its body, and to take its answer
    socket_max_undecided: int  # SOCKET_MAX_UNDECIDED, sends of one socket that wait for their verdict
    outbox_max_entries: int  # OUTBOX_MAX_ENTRIES, undecided requests of a shard before sends are refused

    # Uploads (webapp, tasks)
    upload_dir: Path  # UPLOAD_DIR, where they lie; the same folder for all hosts
    upload_extensions: tuple[str, ...]  # UPLOAD_EXTENSIONS, which of `schemas/filetypes.py` are taken; empty = all
    upload_max_bytes: int  # UPLOAD_MAX_BYTES, of a file
    upload_quota_bytes: int  # UPLOAD_QUOTA_BYTES, of a user's files in 24 hours
    upload_quota_visitor_bytes: int  # UPLOAD_QUOTA_VISITOR_BYTES, of a visitor's
    upload_min_rate: int  # UPLOAD_MIN_RATE, bytes a second of an upload, else it is given up
    upload_keep_free_bytes: int  # UPLOAD_KEEP_FREE_BYTES, of the disk, which uploads leave to others
    uploads_at_once: int  # UPLOADS_AT_ONCE, under way in one web process

    # Webhooks (tasks, webapp)
    webhook_allowed_networks: tuple[str, ...]  # WEBHOOK_ALLOWED_NETWORKS, private ones that targets may be in
    webhook_timeout_seconds: float  # WEBHOOK_TIMEOUT_SECONDS, for a target to answer
    webhook_pause_hours: float  # WEBHOOK_PAUSE_HOURS, of failures in a row after which a webhook is paused
    webhooks_max: int  # WEBHOOKS_MAX, of a deployment

    # Delivery core (tasks, models.store)
    outbox_shards: int  # OUTBOX_SHARDS, fixed for the life of a deployment: it decides where a conversation lives
    drain_batch_requests: int  # DRAIN_BATCH_REQUESTS, requests one batch reads from a shard at most
    drain_batch_deliveries: int  # DRAIN_BATCH_DELIVERIES, deliveries one batch makes at most
    drain_linger_seconds: float  # DRAIN_LINGER_SECONDS, how long a drain waits for more before it leaves
    drain_max_seconds: float  # DRAIN_MAX_SECONDS, after which a drain leaves in any case
    drain_lease_seconds: float  # DRAIN_LEASE_SECONDS, after which another drain may take a silent one's shards
    heartbeat_seconds: int  # HEARTBEAT_SECONDS, ORIG 2.5

    # What it writes
    log_level: str  # LOG_LEVEL

    # What whoever starts it should know (supervise): a setting that does not count, in one sentence
    notices: tuple[str, ...]

    @property
    def redis_socket(self) -> Path:
        """Where the embedded Redis listens: in `DATA_DIR`, or in the temporary folder where that path is too long."""
        return _redis_socket(self.data_dir)

    @property
    def call_host(self) -> str:
        """The address to call where HOST says on which to listen: for "all addresses" that is loopback."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def call_address(self) -> str:
        """Where the web port is called, as `host:port` stands in a URL."""
        return _host_and_port(self.call_host, self.port)

    @property
    def bind_address(self) -> str:
        """Where the web port listens, as `host:port`."""
        return _host_and_port(self.host, self.port)

    @property
    def sentinel_service(self) -> str | None:
        """What the sentinels call the master; None where `REDIS_URL` names none."""
        return _sentinels(self.redis_url)[2] if self.redis_url.startswith(_SENTINEL_SCHEME) else None

    def __repr__(self) -> str:  # secrets must not reach a log through an error report
        return f"Settings(data_dir={str(self.data_dir)!r}, port={self.port})"


def load_settings() -> Settings:
    """Read the environment and `.env`. Creates `DATA_DIR` and the generated secrets.

    Relative paths, and `.env`, are those of the sources' folder, wherever a command is called from: all must mean the same.
    Raises SettingsError: a variable is malformed, or unsafe for production.
    """
    env = Env()
    env.read_env(str(_ROOT / ".env"), recurse=False)
    try:
        return _read(env)
    except EnvError as error:
        raise SettingsError(str(error)) from error


def _read(env: Env) -> Settings:
    environment = env.str("HONGYAN_ENV", "development").strip().lower()
    production = environment == "production"
    data_dir = _ROOT / (env.str("DATA_DIR", "var") or "var")  # an empty one would be this folder
    if _NO_PATH_OF_URLS.search(str(data_dir)):
        raise SettingsError(
            f"DATA_DIR {str(data_dir)!r} must not contain ?, #, ; or an escape like %20: it stands in the URLs of SQLite, Redis "
            "and Celery's broker"
        )
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR {str(data_dir)!r} cannot be made: {error.strerror}") from error
    redis_url = env.str("REDIS_URL", "")
    if redis_url and not redis_url.startswith(_REDIS_SCHEMES):
        raise SettingsError(f"REDIS_URL must begin with {', '.join(_REDIS_SCHEMES)}")
    if redis_url.startswith(_SENTINEL_SCHEME):
        _sentinels(redis_url)
    elif redis_url and not _has_readable_port(redis_url):
        raise SettingsError("REDIS_URL has a port that is no number from 0 to 65535")
    redis_socket = _redis_socket(data_dir)
    positive = validate.Range(min=1)
    port_range = validate.Range(min=1, max=65535)

    jwt_secret = env.str("JWT_SECRET", "") or _generated(data_dir / "jwt_secret", 48)
    if production and (len(jwt_secret.encode()) < _MIN_SECRET_BYTES or len(set(jwt_secret)) < _MIN_SECRET_CHARACTERS):
        raise SettingsError(
            f"JWT_SECRET is shorter than {_MIN_SECRET_BYTES} bytes or has fewer than {_MIN_SECRET_CHARACTERS} different "
            "characters: make one with `openssl rand -hex 32`"
        )

    language = env.str("LANGUAGE", "zh").strip()
    notices: tuple[str, ...] = ()
    if environment not in ("", *_ENVIRONMENTS):
        # Whoever has written `prod` must not believe that weak secrets are refused.
        notices += (f"HONGYAN_ENV {environment!r} is neither development nor production and counts as development",)
    if language not in ("", *_LANGUAGES):
        # gettext's too: many desktops and images set it to their list of locales, and nobody thinks of us then.
        notices += (f"LANGUAGE {language!r} is neither zh nor en and does not count: texts are Chinese by default",)

    return Settings(
        production=production,
        host=env.str("HOST", "127.0.0.1") or "127.0.0.1",  # an empty one would be every address
        port=env.int("PORT", 8000, validate=port_range),
        flower_port=env.int("FLOWER_PORT", 5555, validate=port_range),
        flower_basic_auth=_credentials("FLOWER_BASIC_AUTH", env.str("FLOWER_BASIC_AUTH", ""))
        or "hongyan:" + _generated(data_dir / "flower_password", 18),
        data_dir=data_dir,
        web_processes=env.int("WEB_PROCESSES", 2, validate=positive),
        worker_processes=env.int("WORKER_PROCESSES", 2, validate=positive),
        database_url=_database_url(env.str("DATABASE_URL", "")) or f"sqlite:///{data_dir / 'hongyan.db'}",
        redis_url=redis_url or f"unix://{redis_socket}?db=0",
        is_redis_embedded=not redis_url,
        broker_url=_celery_url(env.str("CELERY_BROKER_URL", "")) or _broker_url(redis_url, redis_socket),
        jwt_secret=jwt_secret,
        token_ttl_seconds=env.int("TOKEN_TTL_SECONDS", 2_592_000, validate=positive),
        visitor_salt=env.str("VISITOR_SALT", "hongyan"),
        server_api_key=env.str("SERVER_API_KEY", "") or _generated(data_dir / "server_api_key", 32),
        allowed_origins=tuple(env.list("ALLOWED_ORIGINS", [])),
        trusted_proxies=_networks("TRUSTED_PROXIES", env.list("TRUSTED_PROXIES", [])),
        metrics_token=env.str("METRICS_TOKEN", "") or None,
        send_wait_seconds=env.float("SEND_WAIT_SECONDS", 5.0, validate=validate.Range(min=0)),
        media_url=env.str("MEDIA_URL", "/static/media/").rstrip("/") + "/",
        language=language if language in _LANGUAGES else _LANGUAGES[0],
        shows_public_ids=env.str("PUBLIC_PROFILE", "minimal", validate=validate.OneOf(("", *_PUBLIC_PROFILES)))
        == "original",
        rate_limit_sends=_rate("RATE_LIMIT_SENDS", env.str("RATE_LIMIT_SENDS", "100 per second")),
        rate_limit_auth=_rate("RATE_LIMIT_AUTH", env.str("RATE_LIMIT_AUTH", "60 per minute")),
        rate_limit_frames=_rate("RATE_LIMIT_FRAMES", env.str("RATE_LIMIT_FRAMES", "50 per second")),
        rate_limit_connects=_rate("RATE_LIMIT_CONNECTS", env.str("RATE_LIMIT_CONNECTS", "50 per second")),
        message_max_bytes=env.int("MESSAGE_MAX_BYTES", 16_384, validate=positive),
        body_max_bytes=env.int("BODY_MAX_BYTES", 262_144, validate=positive),
        frame_max_bytes=env.int("FRAME_MAX_BYTES", 65_536, validate=positive),
        socket_outbox_max_bytes=env.int("SOCKET_OUTBOX_MAX_BYTES", 1_048_576, validate=positive),
        sockets_per_user=env.int("SOCKETS_PER_USER", 8, validate=positive),
        devices_per_user=env.int("DEVICES_PER_USER", 5, validate=positive),
        group_max_members=env.int("GROUP_MAX_MEMBERS", 1_000, validate=positive),
        complaints_per_user=env.int("COMPLAINTS_PER_USER", 20, validate=positive),
        answers_per_owner=env.int("ANSWERS_PER_OWNER", 100, validate=positive),
        inbox_max_entries=env.int("INBOX_MAX_ENTRIES", 10_000, validate=positive),
        chatlog_max_entries=env.int("CHATLOG_MAX_ENTRIES", 1_000, validate=positive),
        web_max_connections=env.int("WEB_MAX_CONNECTIONS", 20_000, validate=positive),
        request_max_seconds=env.float("REQUEST_MAX_SECONDS", 20.0, validate=validate.Range(min=0.1)),
        socket_max_undecided=env.int("SOCKET_MAX_UNDECIDED", 1_000, validate=positive),
        outbox_max_entries=env.int("OUTBOX_MAX_ENTRIES", 20_000, validate=positive),
        upload_dir=_ROOT / (env.str("UPLOAD_DIR", "") or data_dir / "uploads"),
        upload_extensions=tuple(env.list("UPLOAD_EXTENSIONS", [])),
        upload_max_bytes=env.int("UPLOAD_MAX_BYTES", 52_428_800, validate=positive),
        upload_quota_bytes=env.int("UPLOAD_QUOTA_BYTES", 1_073_741_824, validate=validate.Range(min=0)),
        upload_quota_visitor_bytes=env.int("UPLOAD_QUOTA_VISITOR_BYTES", 104_857_600, validate=validate.Range(min=0)),
        upload_min_rate=env.int("UPLOAD_MIN_RATE", 8_192, validate=positive),
        upload_keep_free_bytes=env.int("UPLOAD_KEEP_FREE_BYTES", 1_073_741_824, validate=validate.Range(min=0)),
        uploads_at_once=env.int("UPLOADS_AT_ONCE", 128, validate=positive),
        webhook_allowed_networks=_networks("WEBHOOK_ALLOWED_NETWORKS", env.list("WEBHOOK_ALLOWED_NETWORKS", [])),
        webhook_timeout_seconds=env.float("WEBHOOK_TIMEOUT_SECONDS", 15.0, validate=validate.Range(min=0.1, max=60)),
        webhook_pause_hours=env.float("WEBHOOK_PAUSE_HOURS", 120.0, validate=validate.Range(min=0.001)),
        webhooks_max=env.int("WEBHOOKS_MAX", 20, validate=validate.Range(min=0, max=200)),
        outbox_shards=env.int("OUTBOX_SHARDS", 8, validate=validate.Range(min=1, max=64)),
        drain_batch_requests=env.int("DRAIN_BATCH_REQUESTS", 256, validate=positive),
        drain_batch_deliveries=env.int("DRAIN_BATCH_DELIVERIES", 2_000, validate=positive),
        drain_linger_seconds=env.float("DRAIN_LINGER_SECONDS", 0.3, validate=validate.Range(min=0, max=1)),
        drain_max_seconds=env.float("DRAIN_MAX_SECONDS", 1.0, validate=validate.Range(min=0, max=5)),
        drain_lease_seconds=env.float("DRAIN_LEASE_SECONDS", 2.0, validate=validate.Range(min=0.2, max=30)),
        heartbeat_seconds=env.int("HEARTBEAT_SECONDS", 30, validate=positive),
        log_level=env.str("LOG_LEVEL", "info", validate=validate.OneOf(["debug", "info", "warning", "error"])),
        notices=notices,
    )


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # an address of IPv6 in brackets


def _rate(name: str, value: str) -> str:
    """Check a rate as `limits` spells them, or `off`."""
    value = value.strip()
    if value == "off":
        return value
    try:
        items = limits.parse_many(value)
    except ValueError:
        items = []
    if len(items) != 1 or items[0].amount < 1:
        raise SettingsError(
            f"{name} {value!r} is no rate: write one like `100 per second` or `5 per 10 minutes`, or `off`"
        )
    return value


def _credentials(name: str, value: str) -> str:
    """Check `user:password`. Flower would take a comma for the end of one and the beginning of the next."""
    user, _, password = value.partition(":")
    if value and (not user or not password or "," in value):
        raise SettingsError(f"{name} is not `user:password` without commas")
    return value


def _networks(name: str, entries: list[str]) -> tuple[str, ...]:
    """Check a list of addresses or networks."""
    given = [entry.strip() for entry in entries if entry.strip()]
    for text in given:
        try:
            ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise SettingsError(f"{name} names {text!r}, which is neither an address nor a network") from error
    return tuple(given)


def _database_url(value: str) -> str:
    """Check what is spoken to a database, and name a file of SQLite by its absolute path.

    Of a relative one Flask-SQLAlchemy, with which web and migrations open it, makes one in a folder `instance`, and
    SQLAlchemy, with which workers do, one in the working directory: they would not see each other's rows.
    """
    if value and not value.startswith(_DATABASE_SCHEMES):
        raise SettingsError(f"DATABASE_URL must begin with {', '.join(_DATABASE_SCHEMES)}")
    beginning, slashes, rest = value.partition(":///")
    path = rest.partition("?")[0]
    if not beginning.startswith("sqlite") or not path or path.startswith((":memory:", "file:")):
        return value
    return f"{beginning}{slashes}{_ROOT / rest}"


def _celery_url(value: str) -> str:
    """Check what is spoken to the broker. Where several stand by with ; between them, each has a URL."""
    if value and not all(url.startswith(_BROKER_SCHEMES) for url in value.split(";")):
        raise SettingsError(f"CELERY_BROKER_URL must begin with {', '.join(_BROKER_SCHEMES)}")
    return value


def _redis_socket(data_dir: Path) -> Path:
    socket = data_dir / "redis.sock"
    if len(str(socket).encode()) <= _MAX_SOCKET_PATH_BYTES:
        return socket
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"hongyan-{os.getuid()}-{digest}" / "redis.sock"


def _has_readable_port(url: str) -> bool:
    try:
        urlsplit(url).port  # noqa: B018  reads it
    except ValueError:
        return False
    return True


def _broker_url(redis_url: str, redis_socket: Path) -> str:
    """Database 1 of the same Redis, in kombu's spelling (kombu says `redis+socket` where redis-py says `unix`)."""
    if not redis_url:
        return f"redis+socket://{redis_socket}?virtual_host=1"
    if redis_url.startswith("unix://"):
        parts = urlsplit(redis_url)
        given = dict(parse_qsl(parts.query))
        # redis-py reads name and password from the query too, kombu from before the path only.
        user = quote(given.get("username", unquote(parts.username or "")), safe="")
        password = quote(given.get("password", unquote(parts.password or "")), safe="")
        credentials = f"{user}:{password}@" if user or password else ""
        return f"redis+socket://{credentials}{parts.path}?virtual_host=1"
    if redis_url.startswith(("redis://", "rediss://")):
        scheme, _, rest = redis_url.partition("://")
        authority, query = rest.partition("?")[::2]
        return f"{scheme}://{authority.split('/')[0]}/1" + (f"?{query}" if query else "")
    credentials, hosts, _ = _sentinels(redis_url)
    # Each with all of it: kombu begins with any of them.
    return ";".join(f"sentinel://{credentials}{host}/1" for host in hosts)


def _sentinels(redis_url: str) -> tuple[str, list[str], str]:
    """Return the credentials of the master, with their @, the sentinels with their ports, and what they call the master."""
    credentials, at, place = redis_url.removeprefix(_SENTINEL_SCHEME).rpartition("@")
    match = re.fullmatch(r"([^/]+)/([^/]+)(/\d*)?", place)
    if match is None:
        raise SettingsError(f"REDIS_URL must name sentinels like {_SENTINEL_SCHEME}host:port,host:port/service")
    # To kombu the port of a sentinel is 6379, if it is not said.
    hosts = [host if re.search(r":\d+$", host) else f"{host}:26379" for host in match[1].split(",")]
    return credentials + at, hosts, match[2]


def _generated(path: Path, secret_bytes: int) -> str:
    """Return the secret kept in `path` (mode 0600), making it on first use. Safe when several processes start at once."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # mkstemp gives mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(secret_bytes) + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)  # atomic: the first process wins, the others read what it wrote
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
    return path.read_text().strip()
