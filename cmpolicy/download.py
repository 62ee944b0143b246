"""Downloads over HTTP: resumed, checked, and renamed when complete."""

from __future__ import annotations

import logging
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

from cmpolicy.errors import InputError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
CONNECT_SECONDS, READ_SECONDS = 4.0, 20.0
ATTEMPTS = 3
PROBE_SECONDS = 4.0

# answers of a proxy that forbids access
_REFUSALS = (403, 407)


def download(
    url: str, path: Path, sha256: str | None = None, *, mirror_variable: str = "D4RL_MIRROR"
) -> Path:
    """Fetch `url` to `path`, resuming `path.part`; two processes can fetch the same file.

    Args:
        mirror_variable: the environment variable that messages advise to set.

    Raises:
        InputError: without an answer within five seconds, for a broken transfer, a wrong hash.
    """
    reason = unreachable(url)
    if reason:
        raise InputError(
            f"{url} cannot be reached ({reason}); check the network, or set {mirror_variable}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with FileLock(f"{path}.lock"):
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}" if sha256 else None,
                fname=path.name,
                path=path.parent,
                downloader=_Resuming(part),
            )
        except (requests.RequestException, OSError) as error:
            raise InputError(_broken(url, part, error, mirror_variable)) from None
        except ValueError:  # pooch: the hash differs; it has removed the file
            raise InputError(
                f"{url} does not hash to {sha256}: the file was changed on its way; "
                "download it again, or from another mirror"
            ) from None
    return path


def _broken(url: str, part: Path, error: Exception, mirror_variable: str) -> str:
    if isinstance(error, requests.HTTPError):
        status = error.response.status_code if error.response is not None else "an error"
        return f"{url} answered {status}; expected a file, check {mirror_variable}"
    size = part.stat().st_size if part.exists() else 0
    return f"{url} broke off after {size} bytes ({type(error).__name__}); run again to resume"


class _Resuming:
    """A pooch downloader that keeps an incomplete file in `part`."""

    def __init__(self, part: Path) -> None:
        self.part = part

    def __call__(self, url: str, output_file: Any, _pooch: Any, **_: Any) -> None:
        for attempt in range(ATTEMPTS):
            try:
                self._append(url)
                break
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                if attempt == ATTEMPTS - 1:
                    raise
                logger.info("%s broke off, trying again from where it stopped", url)
        self.part.replace(output_file)

    def _append(self, url: str) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        timeout = (CONNECT_SECONDS, READ_SECONDS)
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            if answer.status_code == 416:  # nothing lies beyond what is here
                if not answer.headers.get("Content-Range", "").endswith(f"/{have}"):
                    self.part.unlink()
                    self._append(url)
                return
            answer.raise_for_status()
            resumes = answer.status_code == 206
            self._write(answer, have if resumes else 0)

    def _write(self, answer: requests.Response, have: int) -> None:
        rest = int(answer.headers.get("Content-Length", 0))
        bar = tqdm(
            total=have + rest or None,
            initial=have,
            unit="B",
            unit_scale=True,
            desc=self.part.stem,
            disable=None,  # silent where nobody watches
        )
        with bar, self.part.open("ab" if have else "wb") as part:
            for chunk in answer.iter_content(CHUNK_BYTES):
                part.write(chunk)
                bar.update(len(chunk))


def unreachable(url: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Why `url` does not answer within `seconds`, or None if it does.

    Failures of the server and refusals are no answers. Name resolution has no timeout, so a thread
    asks, and is abandoned after `seconds`.
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
