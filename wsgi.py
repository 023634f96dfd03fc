"""Entry of the web processes and of the `flask --app wsgi` commands: patch, read settings, build. Nothing else."""

from __future__ import annotations

import os
import sys

# The list of friends needs the readings of single characters only; those of phrases would cost 44 MB in each process.
os.environ["PYPINYIN_NO_PHRASES"] = os.environ["PYPINYIN_NO_DICT_COPY"] = "true"

if "gunicorn.arbiter" in sys.modules:
    # Before anything else is imported. Commands stay unpatched: they hold no sockets.
    from gevent import monkey

    monkey.patch_all()

from settings import SettingsError, load_settings
from webapp import create_app

os.umask(0o077)  # what a command writes below DATA_DIR is its owner's alone, as what `make run` writes

try:
    app = create_app(load_settings(), has_commands="gunicorn.arbiter" not in sys.modules)
except SettingsError as error:
    raise SystemExit(f"hongyan: {error}") from error
