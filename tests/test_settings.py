"""Settings: what the environment may say, and what is made of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from settings import Settings, SettingsError, load_settings
from webapp.asyncapi import build_document

_ROOT = Path(__file__).resolve().parent.parent


def _load(monkeypatch: pytest.MonkeyPatch, folder: Path, **environment: str) -> Settings:
    for name in (
        "LANGUAGE",
        "JWT_SECRET",
        "HONGYAN_ENV",
        "FLOWER_BASIC_AUTH",
        "MEDIA_URL",
        "HOST",
        "DATABASE_URL",
        "REDIS_URL",
        "CELERY_BROKER_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(folder))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


@pytest.mark.parametrize(("value", "language"), [("zh", "zh"), ("en", "en"), ("", "zh")])
def test_a_language_that_we_have_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, language: str
) -> None:
    settings = _load(monkeypatch, tmp_path, LANGUAGE=value)

    assert (settings.language, settings.notices) == (language, ())


@pytest.mark.parametrize("value", ["en_US:en", "en_GB.UTF-8", "de_DE:en_US:en", "fr", "C", "EN", "klingon"])
def test_the_language_of_a_desktop_does_not_decide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    """LANGUAGE is gettext's too: where a machine sets it, texts stay Chinese, the start is not refused, and it is told."""
    settings = _load(monkeypatch, tmp_path, LANGUAGE=value)

    assert settings.language == "zh"
    assert [repr(value) in notice for notice in settings.notices] == [True]


@pytest.mark.parametrize("secret", ["secret", ("0123456789abcdef" * 2)[1:], "a" * 40, "012345678" * 8])
def test_production_refuses_a_weak_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secret: str) -> None:
    """A development system takes it."""
    with pytest.raises(SettingsError, match="JWT_SECRET"):
        _load(monkeypatch, tmp_path, HONGYAN_ENV="production", JWT_SECRET=secret)
    assert _load(monkeypatch, tmp_path, JWT_SECRET=secret).jwt_secret == secret


def test_production_takes_a_secret_that_a_command_has_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = os.urandom(32).hex()

    assert _load(monkeypatch, tmp_path, HONGYAN_ENV="production", JWT_SECRET=secret).jwt_secret == secret


def test_production_takes_a_generated_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = _load(monkeypatch, tmp_path, HONGYAN_ENV="production")

    assert settings.production
    assert (tmp_path / "jwt_secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("value", "is_told"), [("prod", True), ("staging", True), ("", False), ("development", False)])
def test_what_is_not_production_by_name_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, is_told: bool
) -> None:
    settings = _load(monkeypatch, tmp_path, HONGYAN_ENV=value)

    assert not settings.production
    assert [repr(value) in notice for notice in settings.notices] == [True] * is_told


@pytest.mark.parametrize("name", ["a?b", "a#b", "a;b", "a%20b"])
def test_a_data_folder_that_would_be_another_in_a_url_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SettingsError, match=r"DATA_DIR .* must not contain"):
        _load(monkeypatch, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_data_folder_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match=r"DATA_DIR .* cannot be made"):
        _load(monkeypatch, tmp_path / "file" / "var")


@pytest.mark.parametrize("credentials", ["nopassword", "user:", ":password", "user:pass,word"])
def test_flower_is_never_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, credentials: str) -> None:
    """Flower would take what follows a comma for somebody else's credentials."""
    with pytest.raises(SettingsError, match="FLOWER_BASIC_AUTH"):
        _load(monkeypatch, tmp_path, FLOWER_BASIC_AUTH=credentials)


@pytest.mark.parametrize("value", ["https://cdn.example/m", "https://cdn.example/m/"])
def test_the_base_of_icons_ends_with_a_slash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str) -> None:
    assert _load(monkeypatch, tmp_path, MEDIA_URL=value).media_url == "https://cdn.example/m/"


def test_an_empty_host_opens_no_other_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _load(monkeypatch, tmp_path, HOST="").host == "127.0.0.1"


@pytest.mark.parametrize(
    ("host", "listens_at", "is_called_at"),
    [
        ("127.0.0.1", "127.0.0.1:8000", "127.0.0.1:8000"),
        ("0.0.0.0", "0.0.0.0:8000", "127.0.0.1:8000"),
        ("::", "[::]:8000", "[::1]:8000"),
        ("fe80::2", "[fe80::2]:8000", "[fe80::2]:8000"),
        ("chat.test", "chat.test:8000", "chat.test:8000"),
    ],
)
def test_who_listens_everywhere_is_called_at_loopback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, listens_at: str, is_called_at: str
) -> None:
    """In the addresses that `make run` prints, in those of `make demo`, and in the document of the websocket."""
    settings = _load(monkeypatch, tmp_path, HOST=host, PORT="8000")

    assert (settings.bind_address, settings.call_address) == (listens_at, is_called_at)
    assert build_document(settings)["servers"]["here"]["host"] == is_called_at


def test_an_empty_data_folder_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would be the folder of the sources else, and the secrets among them."""
    monkeypatch.setattr("settings._ROOT", tmp_path)
    monkeypatch.setenv("DATA_DIR", "")

    assert load_settings().data_dir == tmp_path / "var"


def test_relative_folders_are_the_same_from_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever calls `demo.py` or a command from elsewhere means this instance, and leaves no secrets where he stands."""
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / ".env").write_text("DATA_DIR=data\nUPLOAD_DIR=files\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("settings._ROOT", tmp_path / "sources")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        # Set first, so that what .env brings into the environment ends with the test.
        for name in ("DATA_DIR", "UPLOAD_DIR"):
            patch.setenv(name, "")
            patch.delenv(name)
        settings = load_settings()

    assert (settings.data_dir, settings.upload_dir) == (tmp_path / "sources" / "data", tmp_path / "sources" / "files")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        ("sqlite:///chat.db", f"sqlite:///{_ROOT}/chat.db"),
        ("sqlite+pysqlite:///data/chat.db?timeout=3", f"sqlite+pysqlite:///{_ROOT}/data/chat.db?timeout=3"),
        ("sqlite:////srv/chat.db", "sqlite:////srv/chat.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql+psycopg://chat@db/chat", "postgresql+psycopg://chat@db/chat"),
    ],
)
def test_a_relative_file_of_sqlite_is_the_same_from_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, understood: str
) -> None:
    """It is below the sources, whatever folder a command is called from."""
    monkeypatch.chdir(tmp_path)

    assert _load(monkeypatch, tmp_path, DATABASE_URL=given).database_url == understood


@pytest.mark.parametrize(
    "redis_url",
    [
        "localhost:6379",
        "http://127.0.0.1",
        "redis+sentinel://u:p@a:1",
        "redis+sentinel://a:1/",
        "redis+sentinel:///chat",
        "redis+sentinel://a:1/chat/first",
    ],
)
def test_what_is_wrong_with_the_address_of_redis_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str
) -> None:
    """It may hold a password, so it is not quoted."""
    with pytest.raises(SettingsError, match=r"^REDIS_URL must") as refused:
        _load(monkeypatch, tmp_path, REDIS_URL=redis_url)
    assert redis_url not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "mysql://chat:secret@db/chat"),
        ("DATABASE_URL", "postgres://chat:secret@db/chat"),
        ("DATABASE_URL", "postgresql+psycopg2://chat:secret@db/chat"),
        ("DATABASE_URL", "chat.db"),
        ("CELERY_BROKER_URL", "kafka://:secret@broker"),
        ("CELERY_BROKER_URL", "unix:///run/redis.sock"),
        ("CELERY_BROKER_URL", "amqp://:secret@one;two"),
    ],
)
def test_what_nothing_here_can_speak_to_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, url: str
) -> None:
    """With the names of what is spoken: SQLAlchemy and kombu would tell of a module that is missing. It is not quoted."""
    with pytest.raises(SettingsError, match=f"^{name} must begin with .*(postgresql|amqp)://") as refused:
        _load(monkeypatch, tmp_path, **{name: url})
    assert url not in str(refused.value)


@pytest.mark.parametrize(
    ("redis_url", "broker_url"),
    [
        ("redis://u:p@redis:6380/3?x=y", "redis://u:p@redis:6380/1?x=y"),
        ("unix:///run/redis.sock?db=2", "redis+socket:///run/redis.sock?virtual_host=1"),
        ("unix:///run/redis.sock?db=2&password=a%40b", "redis+socket://:a%40b@/run/redis.sock?virtual_host=1"),
        ("unix://u:p@/run/redis.sock", "redis+socket://u:p@/run/redis.sock?virtual_host=1"),
        ("redis+sentinel://one/chat", "sentinel://one:26379/1"),
        ("redis+sentinel://u:p%40@one:1,[::1]/chat/2", "sentinel://u:p%40@one:1/1;sentinel://u:p%40@[::1]:26379/1"),
    ],
)
def test_the_broker_is_database_1_of_the_same_redis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str, broker_url: str
) -> None:
    """With the same credentials, in kombu's spelling."""
    settings = _load(monkeypatch, tmp_path, REDIS_URL=redis_url)

    assert settings.broker_url == broker_url
    assert settings.sentinel_service == ("chat" if "sentinel" in redis_url else None)


@pytest.mark.parametrize(
    "url",
    ["postgres://chat:secret@db/chat", "mysql://chat:secret@db/chat", "postgresql:chat:secret@db", "secret"],
    ids=["postgres", "mysql", "without slashes", "no url"],
)
def test_a_database_that_we_do_not_have_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    """In a sentence that names what there is, and does not repeat the password."""
    with pytest.raises(SettingsError, match=r"^DATABASE_URL must begin with .*postgresql\+psycopg://") as refused:
        _load(monkeypatch, tmp_path, DATABASE_URL=url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:p@h/d", "postgresql://h/d", "sqlite+pysqlite:////tmp/a.db"])
def test_a_database_that_we_have_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    assert _load(monkeypatch, tmp_path, DATABASE_URL=url).database_url == url


def test_a_port_of_redis_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else it would look like an error of the database, which is the first to be started."""
    with pytest.raises(SettingsError, match="REDIS_URL has a port") as refused:
        _load(monkeypatch, tmp_path, REDIS_URL="redis://:secret@127.0.0.1:abc/0")
    assert "secret" not in str(refused.value)
