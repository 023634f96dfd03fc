"""The documentation names what the code has: settings with their defaults, and commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_OPERATIONS = (_ROOT / "docs" / "operations.md").read_text()
# Read from the source rather than by calling it: a variable that is read under a condition counts too.
_SETTING = re.compile(r'env\.(?P<kind>\w+)\(\s*"(?P<name>[A-Z][A-Z0-9_]*)"(?:,\s*(?P<default>"[^"]*"|[\d._]+))?')
_SETTINGS = {match["name"]: match["default"] for match in _SETTING.finditer((_ROOT / "settings.py").read_text())}


def _row(name: str) -> list[str]:
    for line in _OPERATIONS.splitlines():
        if line.startswith(f"| `{name}` |"):
            return [cell.strip() for cell in line.strip("|").split("|")]
    pytest.fail(f"docs/operations.md has no row for {name}")


def test_settings_are_found_in_their_source() -> None:
    assert len(_SETTINGS) > 30


@pytest.mark.parametrize("name", sorted(_SETTINGS))
def test_each_setting_is_documented_with_unit_and_default(name: str) -> None:
    _, default, unit, meaning = _row(name)

    assert unit
    assert meaning
    in_source = (_SETTINGS[name] or "").strip('"').replace("_", "" if _is_number(_SETTINGS[name]) else "_")
    if in_source:
        assert default == f"`{in_source}`"
    else:
        assert default in ("unset", "generated")


def _is_number(text: str | None) -> bool:
    return text is not None and text[0].isdigit()


def test_no_setting_is_documented_that_does_not_exist() -> None:
    table = _OPERATIONS.partition("## Settings")[2].partition("\n## ")[0]

    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", table, re.MULTILINE))

    assert documented == set(_SETTINGS)


def test_the_example_file_has_only_settings_that_exist() -> None:
    example = (_ROOT / ".env.example").read_text()

    named = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))

    assert named
    assert named <= set(_SETTINGS)


def test_each_command_of_the_makefile_is_explained_by_make_help() -> None:
    makefile = (_ROOT / "Makefile").read_text()

    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    explained = set(re.findall(r"^([a-z][a-z-]*):.*## \S", makefile, re.MULTILINE))

    assert targets == explained


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (_ROOT / page).read_text()

    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]

    assert not [target for target in targets if not (_ROOT / target).exists()]


def test_the_lock_of_development_holds_the_same_versions_as_the_lock_of_operation() -> None:
    run = _pins("requirements.txt")
    dev = _pins("requirements-dev.txt")

    assert run
    assert {name: dev.get(name) for name in run} == run


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_lock_files_name_no_place_to_install_from(lock: str) -> None:
    text = (_ROOT / lock).read_text()

    assert not re.search(r"://|^--(?!hash)|\bfile:", text, re.MULTILINE)


def _pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==(\S+)", (_ROOT / lock).read_text(), re.MULTILINE))
