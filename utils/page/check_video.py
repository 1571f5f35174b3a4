"""Refuse what is no video, or one that is too long, before it waits for its turn.

Reads   --video
Run     python -m utils.page.check_video --video talk.mp4 --max_minutes 10
"""

from pathlib import Path

import av

from utils.errors import OptionParser, UserError, at_least, run_cli
from utils.video.containers import open_video
from utils.video.decoding import probe_video


def main() -> int:
    """Probe the video."""
    parser = OptionParser(prog="check_video", description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, required=True, help="the video")
    parser.add_argument("--max_minutes", type=at_least(1), required=True, help="how long it may be")
    args = parser.parse_args()
    duration_sec = max(probe_video(args.video).duration_sec, packets_sec(args.video))
    if duration_sec > 60 * args.max_minutes:
        raise UserError(f"{duration_sec / 60:.1f} minutes long where {args.max_minutes} are taken; cut it", args.video)
    return 0


def packets_sec(path: Path) -> float:
    """The length of a video by the times of its packets, as what its header says need not be true."""
    first_sec, last_sec = float("inf"), 0.0
    with open_video(path) as container:
        packets = container.demux()
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):  # that it breaks off is found where it is decoded
                return max(last_sec - first_sec, 0.0)
            if packet.size and packet.pts is not None:
                start_sec = float(packet.pts * packet.time_base)
                first_sec = min(first_sec, start_sec)
                last_sec = max(last_sec, start_sec + float((packet.duration or 0) * packet.time_base))


if __name__ == "__main__":
    run_cli(main)
