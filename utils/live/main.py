"""Separate while sound and pictures come in; called by ./live.sh.

Reads   --source, a file played in real time, or --camera and --microphone; an experiment whose network is causal
Writes  --out_dir: see utils/live/tracks.py
Run     python -m utils.live.main --source VIDEO --exp_dir EXP --out_dir DIR

Pictures are looked at by a thread of their own, and faces are compared with voices by another; sound is separated by this one,
which never waits for them. Times are from a sample to the moment at which its estimate is written, of the oldest sample of
each step.
"""

import argparse
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from utils.data.constants import ALIGNMENTS, SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.experiments import Experiment, open_experiment
from utils.data.files import write_json
from utils.data.hub import experiment_folder
from utils.data.progress import progress_bar
from utils.environment import add_missing
from utils.errors import OptionParser, UserError, at_least, flag, run_cli
from utils.separation.options import RUNTIMES

_BEHIND_FRAMES = 2  # pictures that come so much too late are not searched for faces
_MOST_AT_ONCE_FRAMES = 25
_PRIORITIES = {"faces": 5, "comparison": 10}  # niceness of the threads beside separation

log = logging.getLogger(__name__)


def main() -> int:
    """Separate until the source ends, or until Ctrl-C."""
    args = parse_args()
    add_missing("requirements-video.txt")
    if args.runtime == "onnx":
        add_missing("requirements-onnx.txt")
    experiment = open_experiment(args.exp_dir, args.frontend_weights)
    if "lips" not in experiment.frontends:
        raise UserError(f"--exp_dir {args.exp_dir}: sees no lips, so nobody knows whose voice is whose; give another one")
    run(experiment, args)
    return 0


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="live", description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, help="a video that is played; else camera and microphone")
    parser.add_argument("--camera", default="", help="its number or path")
    parser.add_argument("--microphone", default="", help="as PortAudio names it, or its number")
    parser.add_argument("--audio_stream", type=at_least(0), default=0, help="of --source; 0: the first that has sound")
    parser.add_argument("--realtime", type=flag, default=True, help="play --source at its own pace")
    parser.add_argument("--exp_dir", type=experiment_folder, required=True, help="experiment with a causal network")
    parser.add_argument("--frontend_weights", default="", help="the visual frontend's file, if it was moved")
    parser.add_argument("--alignment", choices=ALIGNMENTS, default=ALIGNMENTS[0], help="how mouths are aligned")
    parser.add_argument("--people", type=at_least(1), default=2, help="at most so many")
    parser.add_argument("--out_dir", type=Path, required=True, help="for the tracks")
    parser.add_argument("--play", default="", help="track that is played, e.g. face1")
    parser.add_argument("--max_sec", type=float, default=0.0, help="end after so long; 0: do not")
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnx", help="what runs the separation network")
    parser.add_argument("--dump_dir", type=Path, default=Path("dump"), help="for the network as ONNX")
    parser.add_argument("--threads", type=at_least(1), default=1, help="of PyTorch, for separation")
    return parser.parse_args()


def run(experiment: Experiment, args: argparse.Namespace) -> None:
    """Separate a source; see `parse_args`.

    Raises:
        UserError: the network is not causal, or source, experiment or folder cannot be used.
    """
    import torch

    from local_models.causal import CausalTFDPRNN
    from utils.live.faces import LiveFaces
    from utils.live.sources import DeviceSource, FileSource
    from utils.live.tracks import PICTURE, REPORT, RESIDUAL, LiveTracks
    from utils.live.voices import LiveVoices
    from utils.separation.exported import stream_by_onnx
    from utils.separation.mixtures import load_frontends, load_separator

    torch.set_num_threads(args.threads)
    separator = load_separator(experiment.folder, "cpu")
    network = separator.network
    if not isinstance(network, CausalTFDPRNN):
        raise UserError(f"--exp_dir {args.exp_dir}: its network hears the whole recording; give one of conf/*causal*.yml")
    names = [*(f"face{number}" for number in range(1, args.people + 1)), RESIDUAL]
    if args.play and args.play not in names:
        raise UserError(f"--play {args.play}: it is one of {', '.join(names)}")
    if 1 < network.config.n_faces < args.people:
        trained = f"was trained on {network.config.n_faces} voices at once"
        log.warning("live: --people %d: the network %s; tracks of more are worse", args.people, trained)
    frontends = load_frontends(experiment, "cpu", in_float=True)
    with ExitStack() as stack:
        if args.source:
            source = FileSource(args.source, args.realtime, args.audio_stream, args.max_sec)
        else:
            source = DeviceSource(args.camera, args.microphone, args.max_sec)
        stack.callback(source.close)
        worker = None
        if source.realtime:
            worker = stack.enter_context(ThreadPoolExecutor(1, initializer=_be_nice, initargs=("comparison",)))
        faces = stack.enter_context(LiveFaces(frontends, args.people, experiment.frontends["lips"].view, args.alignment))
        step = None
        if args.runtime == "onnx":
            step = stream_by_onnx(network, separator.sha256, args.dump_dir / "onnx")
        voices = LiveVoices(network, faces.embeddings, args.people, worker, wait=not source.realtime, step=step)
        tracks = stack.enter_context(LiveTracks(args.out_dir, names, network.config.delay))
        player = stack.enter_context(_Player(names.index(args.play))) if args.play else None
        live = Live(source, faces, voices, tracks, player, network.config.step, network.config.delay)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: source.stop())
        live.run()
        facts = live.finish()
        algorithmic_ms = 1000 * network.config.latency / SAMPLE_RATE_HZ
        if source.realtime and live.rows:
            from utils.live.plots import plot_seconds

            plot_seconds(live.rows, facts["latency_ms"], algorithmic_ms, args.out_dir / PICTURE)
        how = {"separated_by": separator.separated_by, "algorithmic_latency_ms": algorithmic_ms, "runtime": args.runtime}
        write_json(args.out_dir / REPORT, how | facts)
    log.info("live: %s", live.summary(facts, algorithmic_ms))
    log.info("live: tracks are in %s", args.out_dir)


class Live:
    """The loop: sound in, tracks out, with a thread for the pictures.

    Args:
        source, faces, voices, tracks: see there.
        player: where a track is heard; None: nowhere.
        step: samples that are separated at a time.
        delay: samples by which tracks are later than the sound.

    Attributes:
        rows: of live.csv.
    """

    def __init__(self, source, faces, voices, tracks, player, step: int, delay: int) -> None:
        self.source, self.faces, self.voices, self.tracks, self.player = source, faces, voices, tracks, player
        self.step, self.delay = step, delay
        self.rows: list[dict] = []
        self._late_sec: list[float] = []  # of all steps
        self._busy_sec: list[float] = []  # for each video frame of them
        self._vision_sec: list[float] = []
        self._n_in = self._n_separated = self._n_skipped = 0
        self._error: BaseException | None = None
        self._last = (0.0, 0.0, 0, 0, 0)  # times and counts when the last row was made

    def run(self) -> None:
        """Until the source ends."""
        self.source.start()
        watching = threading.Thread(target=self._watch, daemon=True)
        watching.start()
        waiting = np.zeros(0, np.float32)
        n_sec = None if self.source.n_samples is None else self.source.n_samples // SAMPLE_RATE_HZ
        self._last = (time.monotonic(), self._cpu_sec(), 0, 0, 0)
        with progress_bar(total=n_sec, unit="s", desc="live") as progress:
            for block in self.source.sound():
                self.tracks.hear(block)
                self._n_in += len(block)
                waiting = np.concatenate([waiting, block])
                if len(waiting) >= self.step and not self._is_more_due(len(waiting)):
                    n_ready = len(waiting) // self.step * self.step
                    self._separate(waiting[:n_ready])
                    waiting = waiting[n_ready:]
                if self._n_in // SAMPLE_RATE_HZ > len(self.rows):
                    progress.set_postfix_str(self._second())
                    progress.update()
                if self._error:
                    raise self._error
        if self.source.realtime:
            self.source.stop()  # pictures that are still to come belong to no sound
        watching.join()
        n_missing = len(waiting) + self.delay
        self._separate(np.concatenate([waiting, np.zeros(-(-n_missing // self.step) * self.step - len(waiting), np.float32)]))

    def finish(self) -> dict:
        """Write what there is to say of the whole; the content of live.json."""
        self.tracks.write_seconds(self.rows)
        return {
            "duration_sec": round(self._n_in / SAMPLE_RATE_HZ, 3),
            "realtime": self.source.realtime,
            "latency_ms": _percentiles_ms(self._late_sec),
            "separation_ms_per_frame": _percentiles_ms(self._busy_sec),
            "faces_ms_per_frame": _percentiles_ms(self._vision_sec),
            "load": _mean([row["load"] for row in self.rows]),
            "most_backlog_ms": max((row["backlog_ms"] for row in self.rows), default=0.0),
            "pictures_not_searched": self._n_skipped,
            "late_embeddings": self.voices.n_late,
            "faces_without_place": self.faces.n_ignored,
            "voice_certainty": [round(value, 3) for value in self.voices.certainties],
            "most_memory_mb": max((row["memory_mb"] for row in self.rows), default=0.0),
            "definitions": {
                "latency_ms": "from a sample to its estimate being written, of the oldest sample of each step",
                "algorithmic_latency_ms": "what of it no computer could save",
                "load": "CPU time of the program and of the process that tells faces apart over time, one core is 1",
                "pictures_not_searched": "pictures that came too late, in which faces were taken to be where they were",
                "late_embeddings": "frames in which a network that is steered by faces had to do without them",
            },
        }

    def summary(self, facts: dict, algorithmic_ms: float) -> str:
        """One line for the user."""
        late = facts["latency_ms"]
        return (
            f"{facts['duration_sec']:.1f} s; {late['50']:.0f} ms from sound to track ({late['95']:.0f} ms at most in 95 %), "
            f"{algorithmic_ms:.0f} of them algorithmic; load {facts['load']:.2f} cores, "
            f"{facts['pictures_not_searched']} pictures were not searched for faces"
        )

    def _is_more_due(self, n_waiting: int) -> bool:
        """Tell if so much sound is due already that it is better separated together."""
        behind = self.source.now_sec() * SAMPLE_RATE_HZ - self._n_in if self.source.realtime else 0
        return behind >= self.step and n_waiting < _MOST_AT_ONCE_FRAMES * self.step

    def _separate(self, samples: np.ndarray) -> None:
        start_sec = time.perf_counter()
        tracks = self.voices.add(samples)
        self.tracks.add(tracks)
        n_frames = len(samples) // self.step
        self._busy_sec += [(time.perf_counter() - start_sec) / n_frames] * n_frames
        oldest_sec = (self._n_separated - self.delay) / SAMPLE_RATE_HZ
        self._n_separated += len(samples)
        if self.source.realtime and oldest_sec >= 0:
            self._late_sec.append(self.source.now_sec() - oldest_sec)
        if self.player:
            self.player.add(tracks)

    def _watch(self) -> None:
        """The thread of the pictures."""
        _be_nice("faces")
        try:
            for frame, picture in self.source.pictures():
                behind = self.source.now_sec() * VIDEO_FPS - frame if self.source.realtime else 0.0
                start_sec = time.perf_counter()
                look = behind < _BEHIND_FRAMES
                self._n_skipped += not look
                self.faces.add(frame, picture, look)
                self._vision_sec.append(time.perf_counter() - start_sec)
        except BaseException as error:  # for the thread that can say it
            self._error = error
        finally:
            self.faces.embeddings.end()

    def _second(self) -> str:
        """Note the last second; what is shown of it."""
        now = (time.monotonic(), self._cpu_sec(), len(self._late_sec), self._n_skipped, self.voices.n_late)
        wall_sec, cpu_sec, first, skipped, late = (new - old for new, old in zip(now, self._last, strict=True))
        recent = self._late_sec[self._last[2] :]
        backlog_sec = self.source.now_sec() - self._n_in / SAMPLE_RATE_HZ if self.source.realtime else 0.0
        row = {
            "second": len(self.rows) + 1,
            "latency_ms": round(1000 * max(recent, default=0.0), 1),
            "load": round(cpu_sec / max(wall_sec, 1e-3), 3),
            "backlog_ms": round(1000 * max(backlog_sec, 0.0), 1),
            "people": self.faces.n_on_screen,
            "pictures_not_searched": skipped,
            "late_embeddings": late,
            "memory_mb": round(sum(map(_resident_mb, ("self", self.faces.describer.pid))), 1),
        }
        self.rows.append(row)
        self._last = now
        self.tracks.flush()
        said = f"latency {row['latency_ms']:.0f} ms, load {row['load']:.2f}, people {row['people']}"
        return f"{said}, {skipped} pictures not searched" if skipped else said

    def _cpu_sec(self) -> float:
        return time.process_time() + _cpu_sec(self.faces.describer.pid)


class _Player:
    """Plays one of the tracks; a context manager."""

    def __init__(self, index: int) -> None:
        from utils.live.sources import sound_devices

        devices = sound_devices()
        self._index = index
        try:
            self._stream = devices.OutputStream(SAMPLE_RATE_HZ, channels=1, dtype="float32", latency="low")
        except (devices.PortAudioError, ValueError) as error:
            raise UserError(f"--play: no sound can be played here ({error})") from None

    def __enter__(self) -> "_Player":
        self._stream.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def add(self, tracks: np.ndarray) -> None:
        """Play what comes next; it waits while the device is behind."""
        self._stream.write(np.ascontiguousarray(tracks[self._index, :, None]).clip(-1, 1))


def _be_nice(thread: str) -> None:
    """Let separation go first, where the system knows priorities of threads."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITIES[thread])


def _percentiles_ms(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"50": 0.0, "95": 0.0, "99": 0.0}
    values = np.percentile(1000 * np.array(seconds), (50, 95, 99))
    return dict(zip(("50", "95", "99"), (round(float(value), 2) for value in values), strict=True))


def _mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 3) if values else 0.0


def _resident_mb(pid: int | str) -> float:
    """Memory of a process; 0 where the system does not say."""
    with suppress(OSError, ValueError):
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0


def _cpu_sec(pid: int) -> float:
    """CPU time of a process; 0 where the system does not say."""
    with suppress(OSError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


if __name__ == "__main__":
    run_cli(main)
