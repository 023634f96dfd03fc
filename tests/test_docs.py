"""The documentation names what the code has: settings with their defaults, commands, tests and mutants."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.original.report import RULES
from tests.mutants import MUTANTS

_ROOT = Path(__file__).resolve().parent.parent
_OPERATIONS = (_ROOT / "docs" / "operations.md").read_text()
# Read from the source rather than by calling it: a variable that is read under a condition counts too.
_SETTING = re.compile(r'env\.(?P<kind>\w+)\(\s*"(?P<name>[A-Z][A-Z0-9_]*)"(?:,\s*(?P<default>"[^"]*"|[\d._]+))?')
_GUARANTEES_PAGE = (_ROOT / "docs" / "guarantees.md").read_text()
_GUARANTEES = {
    match["name"]: match["text"]
    for match in re.finditer(r"^## (?P<name>G\d) (?P<text>.*?)(?=^## )", _GUARANTEES_PAGE, re.MULTILINE | re.DOTALL)
}
_PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(page.relative_to(_ROOT)) for page in sorted((_ROOT / "docs").rglob("*.md"))),
]
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


@pytest.mark.parametrize("page", _PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (_ROOT / page).read_text()

    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]

    assert not [target for target in targets if not ((_ROOT / page).parent / target).exists()]


@pytest.mark.parametrize("page", _PAGES)
def test_links_into_pages_lead_to_a_heading(page: str) -> None:
    for path, anchor in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", (_ROOT / page).read_text()):
        target = (_ROOT / page).parent / path if path else _ROOT / page
        assert anchor in {_anchor(title) for title in re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)}


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


# Guarantees


def test_every_guarantee_says_how_far_it_goes() -> None:
    assert list(_GUARANTEES) == [f"G{number}" for number in range(1, 9)]
    for text in _GUARANTEES.values():
        assert re.findall(r"^\*\*([\w ]+)\.\*\*", text, re.MULTILINE) == [
            "Promise",
            "How",
            "Cost",
            "Ends where",
            "Tests",
            "Mutants",
        ]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", _GUARANTEES_PAGE))))
def test_a_test_that_proves_a_guarantee_exists(name: str) -> None:
    path, _, function = name.partition("::")

    assert re.search(rf"^def {function}\(", (_ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("guarantee", list(_GUARANTEES))
def test_the_mutants_of_a_guarantee_are_those_that_break_it(guarantee: str) -> None:
    text = _GUARANTEES[guarantee]

    assert re.search(r"`tests/[\w/]+\.py::\w+`", text.partition("**Tests.**")[2].partition("**Mutants.**")[0])
    named = re.findall(r"`([a-z0-9-]+)`", text.partition("**Mutants.**")[2])
    assert sorted(named) == sorted(mutant.name for mutant in MUTANTS if mutant.guarantee == guarantee)


def test_every_rule_of_an_import_is_told() -> None:
    """The report names rules, and the page has the same ones."""
    kinds = {"left_out": "left out", "changed": "changed", "noted": "to be known"}
    page = (_ROOT / "docs" / "migrating.md").read_text()

    told = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.+) \|$", page, re.MULTILINE)

    assert told == [(code, kinds[kind], what) for code, (kind, what) in RULES.items()]


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
