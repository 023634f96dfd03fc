"""Imports go one way: entry → webapp → tasks → models, webapp and tasks → schemas (architecture section 1)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What a part may import of the others. Entry files may import everything but each other.
ALLOWED = {
    "webapp": {"webapp", "tasks", "models", "schemas", "settings", "logs"},
    "tasks": {"tasks", "models", "schemas", "settings", "logs"},
    "schemas": {"schemas", "models"},
    "models": {"models"},
    "settings": set(),
    "logs": set(),
}
# schemas may name the plain shapes of models, nothing that does I/O.
SCHEMAS_MAY_IMPORT = {"models.bodies", "models.requests"}
ONLY_STORE_IMPORTS = {"redis"}
ONLY_WEB_IMPORTS = {"flask", "flask_sock", "simple_websocket", "werkzeug", "gunicorn"}
SETTINGS_READERS = {"settings", "supervise", "celery_worker", "wsgi", "webapp.gunicorn_conf"}


def modules() -> list[tuple[str, Path]]:
    files = [ROOT / "settings.py", ROOT / "logs.py"]
    for part in ("webapp", "tasks", "models", "schemas"):
        files += sorted((ROOT / part).rglob("*.py"))
    return [(".".join(path.relative_to(ROOT).with_suffix("").parts), path) for path in files]


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_one_way(module: str, path: Path) -> None:
    """A part imports only what the architecture allows it."""
    part = module.split(".")[0]
    own = {name for name in imports_of(path) if name.split(".")[0] in ALLOWED}

    assert {name for name in own if name.split(".")[0] not in ALLOWED[part]} == set()
    if part == "schemas":
        models = {name for name in own if name.startswith("models.")}
        assert {name for name in models if not any(name.startswith(ok) for ok in SCHEMAS_MAY_IMPORT)} == set()


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_foreign_packages_stay_where_they_belong(module: str, path: Path) -> None:
    """Redis's client is imported by the store, Flask's family by the edge."""
    roots = {name.split(".")[0] for name in imports_of(path)}

    if not module.startswith("webapp"):
        assert roots & ONLY_WEB_IMPORTS == set()
    if not module.startswith("models.store"):
        assert roots & ONLY_STORE_IMPORTS == set()


def test_sql_and_store_do_not_know_each_other() -> None:
    """No module of the store imports SQLAlchemy, no SQL module imports the store."""
    for module, path in modules():
        names = imports_of(path)
        if module.startswith("models.store"):
            assert not {name for name in names if name.startswith("sqlalchemy")}, module
        elif module.startswith("models"):
            assert not {name for name in names if name.startswith("models.store")}, module


def test_only_settings_reads_the_environment() -> None:
    """No other module of the product looks at environment variables."""
    for module, path in modules():
        if module != "settings":
            assert "os.environ" not in path.read_text(), module
            assert "getenv" not in path.read_text(), module


def test_only_entries_load_settings() -> None:
    """Settings are read once, at an entry, and handed on."""
    for module, path in modules():
        if "settings.load_settings" in imports_of(path):
            assert module in SETTINGS_READERS, module
