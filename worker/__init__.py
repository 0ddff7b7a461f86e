"""Celery application, tasks, claims, the screening pipeline, housekeeping. Only this room imports Celery."""
