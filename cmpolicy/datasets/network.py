"""Is anyone there? Asked with a hard bound, because a dead name server hangs a download."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

PROBE_SECONDS = 4.0

# what a proxy says that lets nobody out
_REFUSALS = (403, 407)


def unreachable(url: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Why nobody answers at `url` within `seconds`, or None if somebody does.

    Any answer but a server's failure or a refusal counts. Name resolution has no timeout of its
    own, so a thread asks, and is left behind when the time is over.
    """
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(url, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else f"no answer within {seconds:g} s"


def _ask(url: str, seconds: float) -> str | None:
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        with error:
            refused = error.code in _REFUSALS or error.code >= 500
            return f"answered {error.code} {error.reason}" if refused else None
    except (OSError, ValueError) as error:
        return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
