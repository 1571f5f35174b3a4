"""What the networks of several confs cost: a training step, a validation batch, reading data, separating a mixture.

Reads   confs, the manifests of --data_dir, and the front end's weights for the size of the embeddings.
Writes  --json F: for each conf the seconds of each measurement, and how many examples there are.
Run     python -m utils.tools.comparison_costs --conf conf/av_tfdprnn.yml --data_dir data/demo --json F \\
            --frontend_weights egs/demo/lipreader.pth.tar

`utils.tools.comparison` runs it, as many at once as there will be trainings, to plan how many epochs fit a budget.
All confs are measured in turns, so that a noisy machine is so for all of them. The steps are real ones (forward, loss,
backward, clipping, optimiser) on random batches of the right shape; reading is that of the corpus' real files, without
the embeddings, of which an example takes a few rows of one file.
"""

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data.files import write_json
from utils.data.manifest import read_manifest
from utils.errors import OptionParser, UserError, run_cli
from utils.training.config import Config, read_config

if TYPE_CHECKING:
    import torch

ROUNDS = 7
EXAMPLES_A_ROUND = 4


def main() -> None:
    """Measure every conf and write the seconds."""
    args = parse_args()
    confs = [read_config(path) for path in args.conf]
    if args.frontend_weights:
        from utils.embedding.frontends import load_frontend

        visual_dim = load_frontend(args.frontend_weights).dim
        confs = [conf.with_visual_dim(visual_dim) for conf in confs]
    setups = {}
    for path, conf in zip(args.conf, confs, strict=True):
        with naming(path):
            setups[str(path)] = TrainingSetup(conf, args.data_dir)
    names = list(setups)
    names = names[args.first :] + names[: args.first]
    runs = {(name, part): naming(name)(run) for name in names for part, run in setups[name].parts().items()}
    seconds = interleaved_seconds(runs, args.rounds)
    found: dict[str, dict[str, Any]] = {name: setup.examples() for name, setup in setups.items()}
    for (name, part), times in seconds.items():
        found[name][part] = times
    write_json(args.json, found)


@contextlib.contextmanager
def naming(conf_path: Path | str) -> Iterator[None]:
    """Put the conf's name before what goes wrong, in a block or in a function; a mistake of ours keeps its traceback."""
    name = Path(conf_path).stem
    try:
        yield
    except UserError as error:
        raise UserError(f"'{name}': {error}") from None
    except RuntimeError as error:
        raise RuntimeError(f"'{name}': {' '.join(str(error).split())}") from error


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = OptionParser(prog="comparison_costs", description="What a training step of several confs costs.")
    parser.add_argument("--conf", type=Path, nargs="+", required=True, help="confs, measured in turns")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the corpus' CSVs")
    parser.add_argument("--frontend_weights", type=Path, help="lip network, for the size of its embeddings")
    parser.add_argument("--json", type=Path, required=True, help="where the seconds go")
    parser.add_argument("--first", type=int, default=0, help="index of the conf to begin each round with")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    return parser.parse_args()


def interleaved_seconds(runs: dict[Any, Callable[[], None]], rounds: int) -> dict[Any, list[float]]:
    """Time several functions in turns, after a first round that does not count.

    Returns:
        Seconds for each function and round.
    """
    import torch

    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for turn in range(1 + rounds):
        for name, run in runs.items():
            synchronise()
            start_sec = time.perf_counter()
            run()
            synchronise()
            if turn:
                seconds[name].append(time.perf_counter() - start_sec)
    return seconds


class TrainingSetup:
    """A conf's network with a random batch, and its data.

    Args:
        conf: resolved conf, its `visual_dim` that of the embeddings.
        data_dir: folder of the corpus' CSVs.
    """

    def __init__(self, conf: Config, data_dir: Path) -> None:
        import torch

        from local_models.networks import build_network
        from utils.training.datasets import make_datasets
        from utils.training.system import AVSystem

        warnings.filterwarnings("ignore", ".*self.trainer. reference is not registered")
        self.conf, self.device = conf, "cuda" if torch.cuda.is_available() else "cpu"
        try:
            network = build_network(conf.model)
        except ValueError as error:
            raise UserError(f"no network can be built from this conf: {error}") from None
        self.system = AVSystem(network, conf.loss, conf.optim, 1, conf.training.seed).to(self.device)
        self.optimizer = self.system.configure_optimizers()
        self.batch = _random_batch(conf, 0, self.device)
        train = read_manifest(data_dir / training_csv(conf))
        self.train_set, self.val_set = make_datasets(conf, train, read_manifest(data_dir / "val.csv"), [], [])
        self._read = 0

    def parts(self) -> dict[str, Callable[[], None]]:
        """What is measured, by the name of its seconds; `more_step_sec` is of a batch with one more voice, if there are any."""
        parts = {
            "step_sec": lambda: self.train_step(self.batch),
            "val_step_sec": self.validate,
            "read_sec": lambda: self.read(self.train_set),
            "val_read_sec": lambda: self.read(self.val_set),
        }
        if self.conf.data.extra_speaker_prob:
            more = _random_batch(self.conf, 1, self.device)
            parts["more_step_sec"] = lambda: self.train_step(more)
        return parts

    def examples(self) -> dict[str, int]:
        """Examples in an epoch and in the validation set, and how many are read in a round."""
        return {"n_train": len(self.train_set), "n_val": len(self.val_set), "n_read": EXAMPLES_A_ROUND}

    def train_step(self, batch: "dict[str, torch.Tensor]") -> None:
        """One step on a batch."""
        import torch

        training = self.conf.training
        self.system.train()
        self.optimizer.zero_grad()
        with self._precision():
            loss = self.system.training_step(batch, 0)
        loss.backward()
        if training.gradient_clipping:
            torch.nn.utils.clip_grad_norm_(self.system.parameters(), training.gradient_clipping)
        self.optimizer.step()

    def validate(self) -> None:
        """The random batch as a batch of the validation."""
        import torch

        self.system.eval()
        with torch.no_grad(), self._precision():
            self.system.on_validation_epoch_start()
            self.system.validation_step(self.batch, 0)

    def read(self, examples: Any) -> None:
        """Read and mix a few examples that were not read before, as long as there are such."""
        for _ in range(EXAMPLES_A_ROUND):
            examples[0, self._read % len(examples)]
            self._read += 1

    def _precision(self) -> contextlib.AbstractContextManager:
        import torch

        if self.device == "cpu" or self.conf.training.precision == "32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, {"bf16": torch.bfloat16, "16": torch.float16}[self.conf.training.precision])


def training_csv(conf: Config) -> str:
    """The manifest that a conf is trained on."""
    return "utterances.csv" if conf.data.dynamic else "train.csv"


def _random_batch(conf: Config, n_more: int, device: str) -> "dict[str, torch.Tensor]":
    """A batch of noise in the shape of a conf's batches, or of those with `n_more` voices and faces."""
    import torch

    model, visual, data = conf.nested["model"], conf.nested["visual"], conf.data
    frames, batch_size, n_src = round(data.segment_sec * visual["video_fps"]), conf.training.batch_size, model["n_src"] + n_more
    generator = torch.Generator().manual_seed(0)
    length = round(data.segment_sec * model["sample_rate"])
    voices = torch.randn(batch_size, max(n_src, 2), length, generator=generator)
    batch = {"mixture": voices.sum(dim=1), "sources": voices[:, :n_src]}
    if conf.n_cues:
        shape = (batch_size, conf.n_cues + n_more, frames, visual["visual_dim"])
        batch["visual"] = torch.randn(shape, generator=generator)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def inference_costs(confs: dict[str, Config], threads: int) -> dict[str, dict[str, float]]:
    """Parameters, MACs a second of audio, and seconds to separate a mixture of `utils.tools.complexity.MIXTURE_SEC` on the CPU.

    Args:
        confs: by the row's name, each with the `visual_dim` that it was trained with.
        threads: CPU threads.

    Returns:
        By the row's name: `params`, `macs_per_audio_second`, `inference_sec` (median of the rounds).
    """
    import statistics

    import torch

    from utils.tools.complexity import MIXTURE_SEC, Setup
    from utils.tools.macs import MacCounter

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    setups = {name: Setup(conf, None, "cpu") for name, conf in confs.items()}
    seconds = interleaved_seconds({name: setup.infer for name, setup in setups.items()}, ROUNDS)
    costs = {}
    for name, setup in setups.items():
        with torch.no_grad(), MacCounter() as counter:
            setup.separate()
        costs[name] = {
            "params": sum(parameter.numel() for parameter in setup.network.parameters()),
            "macs_per_audio_second": round(counter.macs / MIXTURE_SEC),
            "inference_sec": statistics.median(seconds[name]),
        }
    torch.set_num_threads(before)
    return costs


if __name__ == "__main__":
    run_cli(main)
