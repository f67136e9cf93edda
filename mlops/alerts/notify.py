"""How people are told: a line of the log, and a webhook."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from urllib.parse import urlsplit

import structlog

from mlops.alerts.actions import Notice
from tickserve.errors import ConfigurationError

_log = structlog.get_logger()
TIMEOUT_S = 5.0


def log_notice(notice: Notice) -> None:
    """Writes a notice into the log."""
    _log.warning("alert", **asdict(notice))


def webhook(url: str, timeout_s: float = TIMEOUT_S) -> Callable[[Notice], None]:
    """What posts a notice to a URL, as JSON, its `id` also as the header Idempotency-Key, after logging it.

    It raises OSError unless the answer is 2xx; the notice is then sent again later. Redirects are not followed.

    Raises
    ------
    ConfigurationError
        Where the URL is not one of http or https.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"webhook {url!r}: an http or https URL is expected", field="alert_webhook")
    opener = urllib.request.build_opener(_Direct)
    where = f"{parts.scheme}://{parts.hostname}"

    def post(notice: Notice) -> None:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            url,
            json.dumps(asdict(notice)).encode(),
            {"Content-Type": "application/json", "Idempotency-Key": notice.id},
        )
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
            error.close()
        except (OSError, ValueError) as error:
            # A URL may hold a token, and its path does not help anybody.
            raise OSError(f"webhook at {where} does not answer: {getattr(error, 'reason', error)}") from None
        if not 200 <= status < 300:
            raise OSError(f"webhook at {where} answers {status}")
        log_notice(notice)

    return post


class _Direct(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the answer."""

    def redirect_request(self, *_: object) -> None:
        return None
