"""The Celery application: JSON messages that carry a chunk's id, acknowledged late, no results kept."""

from __future__ import annotations

from functools import cache
from typing import Final

from celery import Celery
from kombu import Exchange, Queue

from allq.settings import Settings, current
from worker import transport
from worker.broker import KEY_PREFIX, QUEUES, tls, url

SCREEN_TASK: Final = "allq.screen"

_SECOND_LINE: Final = 30
"""Seconds after the time limit, which `worker.lease` sees to, at which Celery kills what can't even do that."""


def make_app(settings: Settings) -> Celery:
    """A Celery application on the broker of `settings`. Connects to nothing yet."""
    transport.use()
    app = Celery("allq", broker=url(settings), include=["worker.tasks"], set_as_current=False)
    app.conf.update(
        # What is delivered: ids, as JSON, to two queues that exist beforehand.
        accept_content=["json"],
        task_serializer="json",
        task_queues=[Queue(name, Exchange(name, type="direct"), routing_key=name) for name in QUEUES],
        task_default_queue="routine",
        task_create_missing_queues=False,
        # SQL is the truth: no result backend, no events, no remote control.
        task_ignore_result=True,
        result_backend=None,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        # A message is acknowledged once its chunk is recorded; a worker that dies gives it back.
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # the lease decides when a dead worker's chunk runs again, not the broker
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the chunk is recorded in SQL all the same
        task_time_limit=settings.task_seconds + _SECOND_LINE,
        worker_soft_shutdown_timeout=30.0,
        # The broker may be away, at the start or later.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5.0,
        broker_use_ssl=tls(settings),
        broker_transport_options={
            "global_keyprefix": KEY_PREFIX,
            "queue_order_strategy": "priority",
            "visibility_timeout": 2 * (settings.task_seconds + _SECOND_LINE) + 60,
            "socket_connect_timeout": 5.0,
            # A network that was cut says nothing: whoever waits for an answer must stop waiting by himself.
            "socket_keepalive": True,
            "socket_timeout": 15.0,
            "health_check_interval": 10,
        },
        # Logs are allq's own (allq.logging).
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


@cache
def current_app() -> Celery:
    """The application of this process, on the settings of this process."""
    return make_app(current())
