"""Downloads published files in bounded time; files are written completely or not at all."""

from __future__ import annotations

import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import torch

PATIENCE = 5.0
"""Seconds within which a server must respond at all."""
_STALL = 15.0
"""Seconds without any data after which a download is aborted."""
_HASH = re.compile(r"-([0-9a-f]{8,64})\.")


class Unreachable(Exception):
    """A published file could not be obtained; the text says why."""


def cached_file(url: str) -> Path:
    """The path at which torch's hub stores the file of a URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name


def fetch(url: str, destination: Path) -> None:
    """Downloads to `destination`, whose hash must begin as its name says (`resnet50-11ad3fa6.pth`).

    Raises:
        Unreachable: the server does not answer in time, stops early or sends something else, or the disk is full.
    """
    ask(url)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _stalls_end():
            torch.hub.download_url_to_file(
                url, str(destination), hash_prefix=hash_in_name(destination.name), progress=sys.stderr.isatty()
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise Unreachable(f"{host(url)}: {error or type(error).__name__}") from error


def ask(url: str, seconds: float = PATIENCE) -> None:
    """Returns once the server has answered at all, even with a refusal.

    It runs in its own thread, because looking up a host's name cannot have a time limit.

    Raises:
        Unreachable: there is no answer, or none in time.
    """
    answer: list[Exception | None] = []

    def head() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            answer.append(None)
        except urllib.error.HTTPError as refusal:
            refusal.close()
            answer.append(None)
        except (OSError, ValueError) as error:
            answer.append(error)

    thread = threading.Thread(target=head, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        raise Unreachable(f"{host(url)} did not answer within {seconds:g} s")
    if answer[0] is not None:
        raise Unreachable(f"{host(url)} cannot be reached ({getattr(answer[0], 'reason', answer[0])})")


def host(url: str) -> str:
    """The host of a URL, for messages."""
    return urlsplit(url).netloc or url


def hash_in_name(name: str) -> str | None:
    """The beginning of the hash in a published file's name (`resnet50-11ad3fa6.pth`)."""
    named = _HASH.search(name)
    return named[1] if named else None


@contextmanager
def _stalls_end() -> Generator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
