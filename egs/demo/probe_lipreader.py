"""Measure the demo's visual frontend: ridge regressions from its embeddings, on voices and faces that it never saw.

Reads the demo corpus (--data_dir) and a checkpoint. Prints, for both layers, the correlation of a ridge regression's
predictions with the loudness of the voice and with each articulator. The regression is fitted on
training speakers, its penalty chosen on the validation speakers, and the numbers are those of the test speakers.

    python egs/demo/probe_lipreader.py --frontend_weights egs/demo/lipreader.pth.tar
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from utils.data.reports import markdown_table
from utils.errors import OptionParser, UserError, run_cli

HERE = Path(__file__).resolve().parent
PENALTIES = (1e2, 1e3, 1e4, 1e5)
N_CLIPS = {"train": 104, "val": 40, "test": 96}


def main() -> int:
    args = _parse_args()
    from dataclasses import fields

    from egs.demo.visemes import Motion

    rows = [["layer", "loudness", *(field.name for field in fields(Motion))]]
    targets = {split: _targets(args, split) for split in N_CLIPS}
    network = _load(args.frontend_weights)
    for layer in ("trunk", "tcn"):
        vectors = {split: _vectors(args, network, split, layer) for split in N_CLIPS}
        rows.append([layer, *(f"{value:.2f}" for value in _probe(vectors, targets))])
    print(markdown_table(rows), end="")
    return 0


def _parse_args():
    parser = OptionParser(prog="egs/demo/probe_lipreader.py", description="Measures the demo's visual frontend.")
    parser.add_argument("--frontend_weights", type=Path, default=HERE / "lipreader.pth.tar", help="the checkpoint")
    parser.add_argument("--data_dir", type=Path, default=Path("data/demo"), help="the demo corpus, made with seed 0")
    parser.add_argument("--cache_dir", type=Path, default=Path("dump/demo_lipreader"), help="the clips are kept here")
    parser.add_argument("--nj", type=int, default=2, help="processes that draw clips")
    args = parser.parse_args()
    for path, remedy in ((args.data_dir / "test.csv", "prepare.py"), (args.frontend_weights, "pretrain_lipreader.py")):
        if not path.is_file():
            raise UserError(f"{path}: no such file; python egs/demo/{remedy} makes it")
    return args


def _clips(args, split: str):
    from egs.demo.lipreader_data import corpus_clips

    return corpus_clips(split, N_CLIPS[split], 0, args.nj, args.cache_dir)


def _targets(args, split: str):
    """(frames of all clips, 10): log loudness of the sound that each frame's lips make, then the articulators."""
    import numpy as np

    from egs.demo.visemes import LEAD_SEC
    from egs.demo.voices import voices_of
    from utils.data.audio import read_audio
    from utils.data.constants import SAMPLE_RATE_HZ

    clips, voices = _clips(args, split), voices_of(split)
    rows = []
    for index, motion in enumerate(clips.motions):
        name = f"{voices[index % len(voices)].speaker}u{index // len(voices):04d}.wav"
        sound = np.roll(read_audio(args.data_dir / "utterances" / name), -round(LEAD_SEC * SAMPLE_RATE_HZ))
        power = np.square(sound.reshape(len(motion), -1)).mean(axis=1)
        rows.append(np.column_stack([np.log10(power + 1e-6), motion]))
    return np.concatenate(rows)


def _load(weights: Path):
    import torch

    from local_models.lipreading import Lipreading
    from utils.data.files import read_json

    content = torch.load(weights, weights_only=True)
    conf = read_json(HERE.parents[1] / "conf" / "lipreading" / f"{content['config']}.json")
    network = Lipreading(conf, len(content["vocabulary"]))
    network.load_state_dict(content["model_state_dict"])
    return network.eval()


def _vectors(args, network, split: str, layer: str):
    """(frames of all clips, values a frame)."""
    import numpy as np
    import torch

    from egs.demo.lipreader_data import normalise

    with torch.inference_mode():
        views = (torch.from_numpy(normalise(mouths))[None] for mouths in _clips(args, split).mouths)
        clips = [network.features(view, layer)[0].numpy() for view in views]
    return np.concatenate(clips).astype(np.float64)


def _probe(vectors: dict, targets: dict) -> list[float]:
    """Correlation of prediction and target on the test part, each at its best penalty of the validation part."""
    import numpy as np

    mean, std = vectors["train"].mean(axis=0), vectors["train"].std(axis=0) + 1e-6
    x = {split: (values - mean) / std for split, values in vectors.items()}
    centre = targets["train"].mean(axis=0)
    gram, moment = x["train"].T @ x["train"], x["train"].T @ (targets["train"] - centre)
    scores = []
    for penalty in PENALTIES:
        weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), moment)
        scores.append([_correlations(x[split] @ weights, targets[split]) for split in ("val", "test")])
    val, test = np.array(scores).transpose(1, 0, 2)
    return [float(test[best, column]) for column, best in enumerate(val.argmax(axis=0))]


def _correlations(predicted, wanted):
    import numpy as np

    pairs = zip(predicted.T, wanted.T, strict=True)
    return np.array([np.corrcoef(ours, truth)[0, 1] for ours, truth in pairs])


if __name__ == "__main__":
    run_cli(main)
