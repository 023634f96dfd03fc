"""Entry of the Celery workers, beat and flower: read settings, build, register the tasks. Nothing else."""

from __future__ import annotations

from logs import configure_logs
from settings import load_settings
from tasks.celery_app import make_celery
from tasks.registration import register_tasks

settings = load_settings()
configure_logs(settings.log_level)
celery = make_celery(settings)
register_tasks(celery, settings)
