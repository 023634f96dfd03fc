"""What the settings of uploads may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from settings import SettingsError, load_settings
from webapp.uploads import Uploads


def test_only_types_that_are_known_can_be_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of another nobody could say whether a file is one: that refuses the start, and names what is known."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    limits: Any = None
    monkeypatch.setenv("UPLOAD_EXTENSIONS", "png, JPG")
    Uploads(load_settings(), limits)

    monkeypatch.setenv("UPLOAD_EXTENSIONS", "png,svg")
    with pytest.raises(SettingsError, match=r"svg.*known are jpg"):
        Uploads(load_settings(), limits)
