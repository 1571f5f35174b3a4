"""The visitors of the page, and their files: a folder for each, that goes some time after its last use.

    <temporary folder>/avsep-page-.../        for this user only
        uploads/                              what gradio receives, until a job takes it
        <random words>/                       of a visitor
            <random words>/                   of the visitor's job: video, tracks, preview, zip

Visitors are known by the key in the addresses of their files, which only they are told. A file is found by its name in a table,
never by a path.
"""

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from utils.page.jobs import DONE, Job, Line

log = logging.getLogger(__name__)
KEPT_SEC = 3600.0
_PREFIX = "avsep-page-"
_LOCK = ".lock"
_KEY_BYTES = 16


@dataclass(eq=False)
class Visitor:
    """Somebody with the page open in one tab."""

    folder: Path
    key: str = field(default_factory=lambda: secrets.token_urlsafe(_KEY_BYTES))
    used_sec: float = field(default_factory=time.monotonic)
    job: Job | None = None

    def new_job_folder(self) -> Path:
        """An empty folder for the next job; that of the last one goes."""
        if self.job is not None:
            shutil.rmtree(self.job.video.parent, ignore_errors=True)
            self.job = None
        folder = self.folder / secrets.token_urlsafe(_KEY_BYTES)
        folder.mkdir(mode=0o700, parents=True)
        return folder

    def files(self) -> dict[str, Path]:
        """What the visitor may ask for: name -> file."""
        if self.job is None or self.job.state != DONE:
            return {}
        return {path.name: path for path in (self.job.preview, self.job.archive)} | self.job.results()


class Visitors:
    """All visitors, by the session that gradio gives to each tab."""

    def __init__(self, line: Line, kept_sec: float = KEPT_SEC) -> None:
        _remove_abandoned()
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self.uploads = self.root / "uploads"
        self.uploads.mkdir()
        self._own = open(self.root / _LOCK, "w", encoding="utf-8")  # noqa: SIM115 (as long as this server runs)
        fcntl.flock(self._own, fcntl.LOCK_EX)
        self._line, self._kept_sec = line, kept_sec
        self._of_session: dict[str, Visitor] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._sweep_now_and_then, daemon=True).start()

    def of_session(self, session: str) -> Visitor:
        """The visitor of a tab, a new one if need be."""
        with self._lock:
            visitor = self._of_session.get(session)
            if visitor is None:
                visitor = self._of_session[session] = Visitor(self.root / secrets.token_urlsafe(_KEY_BYTES))
            visitor.used_sec = time.monotonic()
            return visitor

    def file(self, key: str, name: str) -> Path | None:
        """A file of the visitor with this key, None where there is no such visitor or file."""
        with self._lock:
            of_key = (v for v in self._of_session.values() if secrets.compare_digest(v.key.encode(), key.encode()))
            visitor = next(of_key, None)
            if visitor is None:
                return None
            visitor.used_sec = time.monotonic()
        return visitor.files().get(name)

    def left(self, session: str) -> None:
        """A tab was closed: nobody would see the result of its job."""
        with self._lock:
            visitor = self._of_session.get(session)
        if visitor is not None and visitor.job is not None:
            self._line.cancel(visitor.job)

    def sweep(self) -> None:
        """Remove what was not used for so long."""
        with self._lock:
            old = [
                session
                for session, visitor in self._of_session.items()
                if time.monotonic() - visitor.used_sec > self._kept_sec and (visitor.job is None or visitor.job.is_over)
            ]
            gone = [self._of_session.pop(session) for session in old]
        for visitor in gone:
            shutil.rmtree(visitor.folder, ignore_errors=True)
        for path in self.uploads.iterdir():  # uploads that were broken off
            with suppress(OSError):
                age_sec = time.time() - path.stat().st_mtime
                if age_sec > self._kept_sec:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Remove everything."""
        self._closed.set()
        shutil.rmtree(self.root, ignore_errors=True)

    def _sweep_now_and_then(self) -> None:
        while not self._closed.wait(min(60.0, self._kept_sec / 2)):
            self.sweep()


def _remove_abandoned() -> None:
    """Remove the folders of servers that were killed: those that nobody holds the lock of."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), open(folder / _LOCK, "r+", encoding="utf-8") as lock:
            if folder.stat().st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                log.info("%s: removed, its server was killed", folder)
