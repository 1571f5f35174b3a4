"""Speech without faces: folders of sounds as utterances for dynamic mixing."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import soundfile

from utils.data.audio import check_sound, read_audio, write_wav
from utils.data.constants import AUDIO_SUFFIXES, SAMPLE_RATE_HZ
from utils.data.jobs import Job, run_jobs
from utils.data.manifest import Problem, Utterance
from utils.errors import UserError

_LIBRISPEECH = re.compile(r"([0-9]+)-[0-9]+-[0-9]+")  # speaker, chapter, utterance


def find_speech(
    folders: Sequence[Path], data_dir: Path, nj: int, option: str = "--speech_dir"
) -> Iterator[Utterance | Problem]:
    """Every file of speech below the folders as an utterance without a mouth.

    Args:
        folders: a folder for each speaker in them, or files named as in LibriSpeech.
        data_dir: gets `sounds/`, the decoded copies of what was compressed with losses, and a journal.
        nj: processes.
        option: of the command line that names the folders, for messages.

    Yields:
        In the order of their paths; a `Problem` for what is not mono at 16 kHz, silent, damaged, or of another file's name.

    Raises:
        UserError: a folder holds no sound.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()]
        if not paths:
            raise UserError(f"{option} {folder}: holds no {', '.join(AUDIO_SUFFIXES)}")
        for path in paths:
            name = "speech_" + re.sub(r"[^\w.-]", "-", "_".join(path.relative_to(folder).with_suffix("").parts))
            if name in found:
                yield Problem(0, name, str(path), f"would get the name {name}, which {found[name]} has already; rename one")
            else:
                found[name] = path
    jobs = [_job(name, path, data_dir) for name, path in found.items()]
    lengths, reasons = run_jobs(_checked_length, jobs, data_dir / ".speech.jsonl", nj, "speech", "file")
    for job in jobs:
        path, copy = job.given
        if job.name in reasons:
            yield Problem(0, job.name, str(path), reasons[job.name].removeprefix(f"{path}: "))
        else:
            inner = next(path.relative_to(folder) for folder in folders if path.is_relative_to(folder))
            match = _LIBRISPEECH.fullmatch(path.stem)
            own_folder = inner.parts[0] if len(inner.parts) > 1 else path.stem
            speaker = f"speech_{match[1] if match else own_folder}"
            yield Utterance(job.name, speaker, str((copy or path).absolute()), length=lengths[job.name])


def _job(name: str, path: Path, data_dir: Path) -> Job:
    """Check a file; what is compressed with losses is decoded once, since training reads pieces of it."""
    copy = None if _is_lossless(path) else data_dir / f"sounds/{name}.wav"
    status = path.stat()
    return Job(name, f"{status.st_size} {status.st_mtime_ns}", (copy,) if copy else (), (path, copy))


def _is_lossless(path: Path) -> bool:
    """By its content: an mp3 may have the name of a wav."""
    try:
        return soundfile.info(str(path)).format not in ("MP3", "OGG")
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        return True  # damaged; the check says how


def _checked_length(given: tuple[Path, Path | None]) -> int:
    """The samples of a file of speech; writes its decoded copy where one is wanted.

    Raises:
        UserError: not mono at 16 kHz, silent, or damaged.
    """
    path, copy = given
    length = check_sound(path, SAMPLE_RATE_HZ).length
    if copy:
        samples = read_audio(path, sample_rate=SAMPLE_RATE_HZ)
        write_wav(copy, samples, SAMPLE_RATE_HZ)
        length = len(samples)
    return length
