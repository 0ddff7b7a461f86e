"""The one Celery task: screen a chunk. All it carries is the chunk's id; what that means stands in SQL."""

from __future__ import annotations

from time import sleep

from celery.exceptions import Reject
from structlog.contextvars import bound_contextvars

from allq import faults
from allq.errors import AllqError, SchemaOutdated
from allq.logging import logger
from allq.settings import current
from models.engines.choose import card_failed
from worker.app import SCREEN_TASK, current_app
from worker.lease import end_process
from worker.requests import ScreeningTask
from worker.station import current_station

log = logger(__name__)

app = current_app()


@app.task(name=SCREEN_TASK, base=ScreeningTask)
def screen(chunk_id: int) -> None:
    """Screen one chunk. SQL tells what became of it, and housekeeping delivers it again if need be.

    A process whose card answers no more would take chunk after chunk, faster than those that screen: it ends. So would
    one on another's schema: it rejects the message, slowly, until housekeeping ends the worker or the schema is ours.
    """
    with bound_contextvars(chunk=chunk_id):
        try:
            current_station().screen_chunk(chunk_id)
        except SchemaOutdated as error:
            log.error("chunk not screened", problem=str(error))
            sleep(current().housekeeping_seconds)
            raise Reject(reason=str(error), requeue=True) from None
        except AllqError as error:
            log.error("chunk not screened", problem=str(error))
        except Exception as error:
            log.exception("chunk not screened")
            if card_failed(error):
                log.error("this process is ended: its card answers no more")
                end_process()
        faults.reach("acknowledge.due")
