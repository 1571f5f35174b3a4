"""The files of a live separation, which grow while it runs.

Writes DIR/face1.wav, ..., rest.wav and sound.wav (what was heard), as long as each other to the sample, live.csv (a row each
second), live.png (drawn of it, where there was a clock to keep up with) and live.json (what it was made with, how late and how
busy it was), which is written last.
"""

import csv
import io
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile

from utils.data.audio import flush_wav, wav_writer
from utils.data.constants import SAMPLE_RATE_HZ
from utils.data.files import write_text
from utils.errors import UserError

REPORT, SECONDS, PICTURE = "live.json", "live.csv", "live.png"
RESIDUAL, SOUND = "rest", "sound"


class LiveTracks:
    """Writes tracks block by block; a context manager that ends the files also after an interruption.

    A folder with anything but an earlier live separation is refused; what an earlier one left is replaced.

    Args:
        folder: of the files.
        names: of the tracks.
        delay: samples by which tracks are later than the sound; so many at their beginning are left out.

    Raises:
        UserError: the folder holds something else.
    """

    def __init__(self, folder: Path, names: list[str], delay: int) -> None:
        self.folder = folder
        if folder.exists() and any(folder.iterdir()) and not (folder / f"{SOUND}.wav").is_file():
            raise UserError(f"--out_dir {folder}: holds something else; give a folder of its own")
        folder.mkdir(parents=True, exist_ok=True)
        for path in [*folder.glob("face*.wav"), *(folder / name for name in (REPORT, SECONDS, PICTURE))]:
            path.unlink(missing_ok=True)
        self._left_out = delay
        self._n_heard = 0
        self._stack = ExitStack()
        self._sound, *self._tracks = (self._open(name) for name in (SOUND, *names))

    def __enter__(self) -> "LiveTracks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()

    @property
    def n_missing(self) -> int:
        """Samples that the tracks are behind the sound."""
        return self._n_heard - self._tracks[0].frames

    def hear(self, samples: np.ndarray) -> None:
        """Keep what was heard, (samples,)."""
        self._sound.write(samples)
        self._n_heard += len(samples)

    def add(self, tracks: np.ndarray) -> None:
        """Write the next samples, (tracks, samples), those beyond what was heard left out."""
        skipped = min(self._left_out, tracks.shape[1])
        self._left_out -= skipped
        tracks = tracks[:, skipped : skipped + self.n_missing]
        for file, samples in zip(self._tracks, tracks, strict=True):
            file.write(samples)

    def flush(self) -> None:
        """Have the files hold all that was written, with headers that say so: a kill loses no more than came since."""
        for file in (self._sound, *self._tracks):
            flush_wav(file)

    def write_seconds(self, rows: list[dict]) -> None:
        """Write live.csv."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["second"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder / SECONDS, text.getvalue())

    def _open(self, name: str) -> soundfile.SoundFile:
        path = self.folder / f"{name}.wav"
        return self._stack.enter_context(wav_writer(path, SAMPLE_RATE_HZ))
