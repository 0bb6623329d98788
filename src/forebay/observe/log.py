"""The log: JSON lines in `home/daemon.log`, or lines for people on stderr in the foreground.

structlog's and the libraries' own records take one way out, which hides secrets and bounds the file.
"""

import io
import logging
import logging.handlers
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog
from structlog.typing import Processor

from forebay.errors import Denied
from forebay.observe.redact import Redactor

FILE_BYTES_MAX = 10 << 20  # then it becomes daemon.log.1, of which there is one

_FIRST = ("timestamp", "level", "event")

# Libraries of which only what goes wrong is told; those of HTTP would tell every URL, and some hold a signature.
_NOISY = (
    *("botocore", "urllib3", "aiohttp.access", "asyncio", "asyncssh", "fsspec", "huggingface_hub"),
    *("httpx", "httpcore", "httpx2", "httpcore2"),
)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A log that only its owner can read, whatever the umask."""

    def _open(self) -> io.TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")


def set_up_log(level: str, redactor: Redactor, *, file: Path | None) -> None:
    """Send everything of `level` and above to `file` as JSON, or to stderr for people if it is None.

    Raises:
        Denied: the file cannot be written.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
        colors = sys.stderr.isatty()
        render: Processor = structlog.dev.ConsoleRenderer(
            colors=colors,
            exception_formatter=structlog.dev.plain_traceback,  # rich's shows locals, and with them secrets
        )
    else:
        try:
            handler = _PrivateFile(file, maxBytes=FILE_BYTES_MAX, backupCount=1)
        except OSError as error:
            raise Denied(f"cannot write the log {file}: {error.strerror}", path=str(file)) from error
        render = structlog.processors.JSONRenderer(ensure_ascii=True)
    _route(handler, level.upper(), redactor, render, for_people=file is None)


def _route(handler: logging.Handler, level: str, redactor: Redactor, render: Processor, *, for_people: bool) -> None:
    def hide(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Every text without secrets; what, when and how bad first."""
        names = [*(name for name in _FIRST if name in event), *(name for name in event if name not in _FIRST)]
        return {name: _clean(event[name], redactor) for name in names}

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_people else "iso", utc=not for_people),
        structlog.processors.format_exc_info,  # before `hide`: a traceback may quote a secret
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, hide, render],
        )
    )
    logging.raiseExceptions = False  # a full disk must not stop the daemon, nor fill its stderr
    logging.captureWarnings(capture=True)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _clean(value: object, redactor: Redactor) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return redactor.clean(value if isinstance(value, str) else str(value))
