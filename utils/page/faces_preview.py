"""Draw the video that the page plays: silent, with a numbered frame around each face.

Reads   --video, and its landmarks in --dump_dir, where stage 4 has put them
Writes  --out, an mp4
Run     python -m utils.page.faces_preview --video talk.mp4 --dump_dir dump --out preview.mp4
"""

from pathlib import Path

from utils.data.constants import SAMPLE_RATE_HZ, VIDEO_FPS
from utils.data.files import read_json
from utils.errors import OptionParser, UserError, run_cli
from utils.video.landmarks import read_people
from utils.video.preview import write_faces_preview


def main() -> int:
    """Find what was prepared, draw it."""
    parser = OptionParser(prog="faces_preview", description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, required=True, help="the video")
    parser.add_argument("--dump_dir", type=Path, required=True, help="of stage 4, which has separated this video only")
    parser.add_argument("--out", type=Path, required=True, help="the mp4")
    args = parser.parse_args()
    prepared = [path.parent for path in (args.dump_dir / "videos").glob("*/*/prepared.json")]
    if len(prepared) != 1:
        raise UserError(f"{len(prepared)} prepared videos where one is expected; run stage 4 first", args.dump_dir)
    people = read_people(prepared[0] / "people.npz")
    boxes = [dict(zip(person.frames.tolist(), person.boxes, strict=True)) for person in people]
    n_samples = read_json(prepared[0] / "prepared.json")["n_samples"]
    n_frames = max(n_samples * VIDEO_FPS // SAMPLE_RATE_HZ, 1)  # of the last one, begun only, there is often no picture
    write_faces_preview(args.video, args.out, boxes, n_frames)
    return 0


if __name__ == "__main__":
    run_cli(main)
