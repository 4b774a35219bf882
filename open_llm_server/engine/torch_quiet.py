"""Keeps what transformers, peft and accelerate print while they load out of a person's terminal.

Their warnings are for people who program with them. Here they go to this module's log as details,
and progress bars nowhere; what matters to a person is an error with a way out, raised elsewhere.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as library_logging

log = logging.getLogger(__name__)

_LIBRARIES = ("transformers", "huggingface_hub", "peft", "accelerate")


class _ToDetails(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.debug("%s: %s", record.name, record.getMessage())


@contextmanager
def quiet() -> Iterator[None]:
    """Not for several threads at once: it changes what belongs to the whole process."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    bars = library_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.handlers, logger.propagate = [_ToDetails()], False
    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for warning in caught:
            log.debug("%s", warning.message)
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        if bars:
            library_logging.enable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
