"""Draw the demo corpus' contact sheet: a few test speakers, consecutive frames, and the phonemes in them.

Reads data/demo and the phoneme times in --raw_dir; writes docs/images/demo_mouths.png.

    python egs/demo/contact_sheet.py --data_dir data/demo
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from egs.demo.voices import voices_of
from utils.data.constants import VIDEO_FPS
from utils.data.files import atomic_path, read_json
from utils.data.mouths import read_mouths
from utils.errors import OptionParser, UserError, run_cli

COLUMNS = 14
ROWS = 6


def main() -> int:
    args = _parse_args()
    from matplotlib.figure import Figure  # after `run_cli` has given it a folder for its configuration

    figure = Figure(figsize=(COLUMNS * 0.86, ROWS * 1.13), facecolor="white")
    for row, voice in zip(figure.subplots(ROWS, COLUMNS), voices_of("test")[:ROWS], strict=True):
        _draw_row(row, args, f"{voice.speaker}u{args.number:04d}", f"{voice.speaker}\n{voice.name}")
    figure.subplots_adjust(left=0.085, right=0.998, top=0.995, bottom=0.035, wspace=0.03, hspace=0.22)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    with atomic_path(args.out) as temporary:  # few grey levels: the camera noise would make a large file
        Image.open(drawn).convert("L").quantize(40).save(temporary, optimize=True)
    print(args.out)
    return 0


def _parse_args() -> argparse.Namespace:
    parser = OptionParser(prog="egs/demo/contact_sheet.py", description="Draws the contact sheet of the demo corpus.")
    parser.add_argument("--data_dir", type=Path, default=Path("data/demo"), help="the demo corpus")
    parser.add_argument("--raw_dir", type=Path, default=Path("dump/demo_corpus"), help="its phoneme times")
    parser.add_argument("--out", type=Path, default=Path("docs/images/demo_mouths.png"), help="the picture")
    parser.add_argument("--number", type=int, default=0, help="which utterance of each speaker")
    parser.add_argument("--first_frame", type=int, default=6, help="first of the consecutive frames")
    args = parser.parse_args()
    if not (args.raw_dir / "clips").is_dir():
        raise UserError(f"{args.raw_dir / 'clips'}: no such folder; python egs/demo/prepare.py makes it")
    return args


def _draw_row(axes, args: argparse.Namespace, utterance_id: str, title: str) -> None:
    mouths = read_mouths(args.data_dir / "mouths" / f"{utterance_id}.npz")
    phones = read_json(args.raw_dir / "clips" / f"{utterance_id}.json")["phones"]
    for column, axis in enumerate(axes):
        frame = args.first_frame + column
        start, end = frame / VIDEO_FPS, (frame + 1) / VIDEO_FPS
        said = "".join(label for label, begin, _ in phones if start <= begin < end)
        axis.imshow(mouths[frame], cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
        axis.set_axis_off()
        axis.text(48, 107, said or "·", ha="center", va="center", fontsize=8.5, color="black" if said else "silver")
        axis.text(94, 8, f"{start:.2f}", ha="right", va="center", fontsize=5, color="white", alpha=0.8)
    axes[0].text(-8, 48, title.replace("+", "\n+"), ha="right", va="center", fontsize=7.5, linespacing=1.4)


if __name__ == "__main__":
    run_cli(main)
