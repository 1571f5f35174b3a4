"""The jobs of the page: one runs, the others wait in line, each can be cancelled.

A job is a row of programs in process groups of their own. So it can be stopped as a whole, and a decoder that crashes ends the
job and not the server. What the programs print on stderr is read for their progress.
"""

import csv
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.data.constants import VIDEO_SUFFIXES
from utils.data.files import atomic_path
from utils.data.progress import INTERVAL_NAME
from utils.errors import UserError

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
PHASES = {
    "faces of": "finding faces",
    "mouths of": "cutting mouths",
    "embeddings": "reading lips",
    "separating": "separating voices",
    "stems": "writing stems",
    "preview": "drawing the preview",
}
"""How the bars of the programs begin -> what the page calls it, in the order of a job."""
RESULT_WORDS = ("--preview=true", "--output_rate=source", "--mux=true")
"""What a visitor gets besides the tracks, as options of ./separate.sh."""
_BAR = re.compile(rf"({'|'.join(PHASES)})\b.*: +(\d+)% ")
_TOLD_SEC = "0.5"  # between two lines of progress
_KILLED_AFTER_SEC = 5.0
_MOST_WAITING = 20
_KEPT_LINES = 30  # of stderr, for the log of a job that failed


@dataclass(frozen=True)
class PageOptions:
    """What is asked of all jobs."""

    max_minutes: int = 10  # longer videos are refused
    max_mb: int = 500  # larger files are
    stage_words: Sequence[str] = ()  # further options of stage 4


@dataclass(eq=False)
class Job:
    """A video to be separated.

    Attributes:
        video: in a folder of the job's own, where all of it goes.
        options: of all jobs.
    """

    video: Path
    options: PageOptions
    state: str = WAITING
    phase: str = ""  # a value of `PHASES`
    percent: int = 0  # of the phase
    message: str = ""  # why it failed
    _program: subprocess.Popen | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.video.stem

    @property
    def tracks_dir(self) -> Path:
        return self.video.parent / "out" / self.name

    @property
    def preview(self) -> Path:
        """The silent video with a numbered frame around each face."""
        return self.video.parent / "preview.mp4"

    @property
    def archive(self) -> Path:
        """A zip of all results."""
        return self.video.parent / f"{self.name}.zip"

    @property
    def is_over(self) -> bool:
        return self.state in (DONE, FAILED, CANCELLED)

    def results(self) -> dict[str, Path]:
        """The files of a job that is done, by the names under which they are given: stems/rest.wav as stems_rest.wav."""
        paths = sorted(path for path in self.tracks_dir.rglob("[!.]*") if path.is_file())
        return {path.relative_to(self.tracks_dir).as_posix().replace("/", "_"): path for path in paths}

    def check(self) -> None:
        """Look whether it is a video, and not too long, before it waits.

        Raises:
            UserError: it cannot be taken.
        """
        if self.video.suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(f"{self.video.name}: not a video by its name; give one that ends in {', '.join(VIDEO_SUFFIXES)}")
        words = [f"--video={self.video}", f"--max_minutes={self.options.max_minutes}"]
        program = _start([sys.executable, "-m", "utils.page.check_video", *words])
        lines = program.communicate()[1].splitlines()
        if program.returncode:
            raise UserError(self._told(lines, program.returncode))

    def run(self) -> None:
        """Run the programs; ends in one of the last three states."""
        with self._lock:
            if self.is_over:
                return
            self.state = RUNNING
        started = time.monotonic()
        for command in self._commands():
            if not self._run(command):
                break
        else:
            self._pack()
            with self._lock:
                self.state = DONE if self.state == RUNNING else self.state
        log.info("job %s: %s after %.1f s", self.video.parent.name, self.state, time.monotonic() - started)

    def fail(self, message: str) -> None:
        """End it with a message, unless it is over."""
        with self._lock:
            if not self.is_over:
                self.state, self.message = FAILED, message

    def cancel(self) -> None:
        """Stop the programs, or leave the line; of a job that is over nothing changes."""
        with self._lock:
            if self.is_over:
                return
            self.state = CANCELLED
            program = self._program
        if program is not None:
            _end(program)

    def _commands(self) -> list[list[str]]:
        folder, dump = self.video.parent, f"--dump_dir={self.video.parent / 'dump'}"
        separate = ["utils/stages/4_separate.sh", f"--test_dir={self.video}", f"--test_name={self.name}",
                    f"--out_dir={folder / 'out'}", dump, *RESULT_WORDS, *self.options.stage_words]  # fmt: skip
        program = [sys.executable, "-m", "utils.page.faces_preview"]
        draw = [*program, f"--video={self.video}", dump, f"--out={self.preview}"]
        return [separate, draw]

    def _run(self, command: list[str]) -> bool:
        environment = os.environ | {INTERVAL_NAME: _TOLD_SEC, "AVSEP_RUN_PID": str(os.getpid())}  # ends when the server does
        with self._lock:
            if self.state != RUNNING:
                return False
            self._program = _start(command, environment)
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        for line in self._program.stderr:
            lines.append(line.rstrip())
            if found := _BAR.match(line):
                self.phase, self.percent = PHASES[found[1]], int(found[2])
        code = self._program.wait()
        with self._lock:
            if code and self.state == RUNNING:
                self.state, self.message = FAILED, self._reason(lines, code)
            return self.state == RUNNING

    def _reason(self, lines: Sequence[str], code: int) -> str:
        """Why it failed, for its owner: what the stage lists, else the last error that was told."""
        failed = self.video.parent / "out" / "failed.csv"
        if failed.is_file():
            with open(failed, encoding="utf-8", newline="") as file:
                if reasons := [row["reason"] for row in csv.DictReader(file)]:
                    return f"{self.video.name}: {self._without_folder(reasons[-1])}"
        return self._told(lines, code)

    def _told(self, lines: Sequence[str], code: int) -> str:
        """The last error of a program; what ended in another way is for the log."""
        if told := [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]:
            return self._without_folder(told[-1])
        log.error("job %s: exit code %d\n%s", self.video.parent.name, code, "\n".join(lines))
        return f"{self.video.name}: it failed unexpectedly while {self.phase or 'starting'}; the log of the server says more"

    def _without_folder(self, text: str) -> str:
        return text.replace(f"{self.video.parent}/", "")

    def _pack(self) -> None:
        shutil.rmtree(self.video.parent / "dump", ignore_errors=True)
        with atomic_path(self.archive) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for path in self.results().values():
                archive.write(path, Path(self.name, path.relative_to(self.tracks_dir)))


class Line:
    """The line of jobs, worked off by one thread."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []  # the first one runs
        self._changed = threading.Condition()
        self._is_open = True
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the line.

        Raises:
            UserError: too many wait.
        """
        with self._changed:
            if len(self._jobs) > _MOST_WAITING:
                raise UserError(f"{_MOST_WAITING} videos are waiting already; come back later")
            self._jobs.append(job)
            self._changed.notify()

    def place(self, job: Job) -> int:
        """How many jobs are before this one."""
        with self._changed:
            return self._jobs.index(job) if job in self._jobs else 0

    def cancel(self, job: Job) -> None:
        """Take a job out of the line, or stop it."""
        job.cancel()
        with self._changed:
            if job in self._jobs[1:]:
                self._jobs.remove(job)

    def close(self) -> None:
        """Cancel all jobs and end the thread."""
        with self._changed:
            self._is_open = False
            self._changed.notify()
            jobs = list(self._jobs)
        for job in reversed(jobs):
            job.cancel()
        self._worker.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or not self._is_open)
                if not self._is_open:
                    return
                job = self._jobs[0]
            try:
                job.run()
            except Exception:  # the line must go on: of a full disk, or a mistake of ours
                log.exception("job %s", job.video.parent.name)
                job.fail(f"{job.video.name}: it failed unexpectedly; the log of the server says more")
            with self._changed:
                self._jobs.remove(job)


def _start(command: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.Popen:
    """Start a program of the recipe in a process group of its own; its stderr is to be read, line by line."""
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, encoding="utf-8", errors="replace", start_new_session=True,
    )  # fmt: skip


def _end(program: subprocess.Popen) -> None:
    """End a program and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(program.pid, number)
            program.wait(_KILLED_AFTER_SEC)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
