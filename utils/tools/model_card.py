"""The model card of a published network: what it is, its scores as stage 5 found them, its limits, its use, its licence.

Reads   exp/<tag>/results/*/final_metrics.json and training.json, and the licences of the corpora in egs/*/README.md
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from utils.data.experiments import open_experiment
from utils.data.files import read_json
from utils.data.reports import REPOSITORY, git_revision, markdown_table
from utils.errors import UserError
from utils.scoring.report import SHORT_TABLE, definitions
from utils.tools.complexity import Setup
from utils.tools.cross_corpus import Scores, long_table, matrix, read_scores, silent_outputs
from utils.training.config import Config

_SECTION = re.compile(r"^## Licence.*?\n+(.*?)(?:\n\n|\n## |\Z)", re.MULTILINE | re.DOTALL)
_SENTENCE = re.compile(r".*?\.(?=\s+[A-Z]|$)")
_RESTRICTED = re.compile(r"\bresearch\b|\bNC\b|non-commercial|passed on")
_THIS, _BASELINE = "this network", "audio-only baseline"


def read_terms(corpora: Sequence[str], licence: str) -> dict[str, str]:
    """The licences of corpora by their names, as egs/<corpus>/README.md has them.

    Raises:
        UserError: no such corpus, or one that is for research, or not to be passed on, under a licence that allows more.
    """
    terms = {}
    for name in corpora:
        path = REPOSITORY / "egs" / name / "README.md"
        if not path.is_file() or name == "several":
            known = ", ".join(sorted(each.parent.name for each in REPOSITORY.glob("egs/*/README.md")))
            raise UserError(f"--corpora {name}: name the folders of egs/ that the network was trained on: {known}")
        found = _SECTION.search(path.read_text(encoding="utf-8"))
        terms[name] = " ".join(found[1].split()) if found else "Recordings of those who trained it."
        if licence and _RESTRICTED.search(terms[name]) and not ("-nc" in licence or licence == "other"):
            raise UserError(
                f"--licence {licence}: {name} is restricted (egs/{name}/README.md), and so is what was trained on it; give "
                "cc-by-nc-4.0, another licence with -nc, or other"
            )
    return terms


class Licence(NamedTuple):
    """What others may do with a network."""

    name: str
    """As hubs have it; "" where none was chosen."""
    terms: dict[str, str]
    """As `read_terms` gives them."""
    has_lr_asd: bool
    """LR-ASD goes with the network."""

    @property
    def text(self) -> str:
        """The content of LICENSE, which is the card's last section, too."""
        restricted = [name for name, text in self.terms.items() if _RESTRICTED.search(text)]
        lines = [f"The weights: {self.name or 'no licence was chosen; ask who gave them to you'}."]
        if restricted:
            lines.append(f"For research, as a part of what they were trained on is: {', '.join(restricted)}.")
        lines += [f"Trained on {name}: {_SENTENCE.match(text)[0]}" for name, text in self.terms.items()]
        if self.has_lr_asd:
            lines.append("The visual frontend is LR-ASD (Liao et al. 2025), MIT, see LICENSE-LR-ASD.")
        return "\n".join(f"- {line}" for line in lines)


def card_text(
    name: str,
    address: str,
    config: Config,
    experiments: tuple[Path, Path | None],
    licence: Licence,
    notes: str,
) -> str:
    """The whole card, with the front matter that hubs read.

    Args:
        name: of the network.
        address: what `--exp_dir` takes.
        config: of the network, without paths of this machine.
        experiments: folders of the network and of its audio-only baseline, if there is one.
        licence: of its weights, and those of what it was trained on.
        notes: what the network cannot do; "" where nobody said.
    """
    kind = "Extracts the speech of one face" if config.model.n_src == 1 else f"Separates {config.model.n_src} speakers"
    seen = "by their faces" if config.needs_visual else "by their voices alone"
    parts = [
        f"# {name}",
        f"{kind} {seen}. A network of an audio-visual speech separation recipe in the style of Asteroid; code that is not part "
        "of this folder runs it.",
        _facts(config, experiments[0]),
        "## Scores",
        _scores(experiments),
        "## Limits",
        notes or "Nobody has written down what this network cannot do: try it on recordings like yours.",
        "## Use",
        _use(address, config),
        "## Data and licence",
        licence.text,
    ]
    return f"---\n{_front_matter(config, licence)}---\n" + "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _front_matter(config: Config, licence: Licence) -> str:
    facts: dict[str, object] = {"license": licence.name or "unknown"}
    if licence.name == "other":
        facts |= {"license_name": "see-license", "license_link": "LICENSE"}
    facts |= {"pipeline_tag": "audio-to-audio", "tags": ["speech-separation", "asteroid", _kind(config)]}
    if config.needs_visual:
        facts["tags"] += ["audio-visual"]
    if licence.terms:
        facts["datasets"] = list(licence.terms)
    return yaml.safe_dump(facts, sort_keys=False)


def _facts(config: Config, exp_dir: Path) -> str:
    """What the network is, and what its training was."""
    model, sizes = config.model, Setup(config).sizes()
    rows = [["", ""], ["network", f"{_kind(config)}, {sizes['params'] / 1e6:.2f} M parameters, weights as float16"]]
    rows.append(["cost", f"{sizes['macs_per_audio_second'] / 1e9:.2f} GMAC for a second of sound, without the visual frontend"])
    video = f", video at {model.video_fps:g} frames/s" if config.needs_visual else ""
    rows.append(["input", f"sound at {model.sample_rate} Hz{video}"])
    for kind, record in open_experiment(exp_dir, needs_weights=False).frontends.items():
        rows.append([f"visual frontend: {kind}", record.description.get("network", record.store_name)])
    data = config.data
    mixed = f"segments of {data.segment_sec:g} s, {'mixed anew each epoch' if data.dynamic else 'ready mixtures'}"
    shares = {"noise": data.noise_prob if data.noise_dir else 0, "room": data.rir_prob if data.rir_dir else 0}
    mixed += "".join(f", {what} in {share:.0%}" for what, share in shares.items() if share)
    rows.append(["training data", mixed])
    if (exp_dir / "training.json").is_file():
        facts = read_json(exp_dir / "training.json")
        length = f"{facts['epochs']} epochs, {facts['mixtures_seen']} mixtures, {facts['training_minutes']:g} minutes"
        rows.append(["training", f"{length} ({facts['device']}); seed {facts['seed']}"])
    return markdown_table(rows, n_left=2) + f"\nConf: `conf.yml`. Revision of the code: {git_revision()}."


def _scores(experiments: tuple[Path, Path | None]) -> str:
    scores: Scores = {}
    for exp_dir, label in zip(experiments, (_THIS, _BASELINE), strict=True):
        tests = sorted(path.parent.name for path in exp_dir.glob("results/*/final_metrics.json")) if exp_dir else []
        for place, groups in read_scores([exp_dir], tests).items():
            if label == _THIS or place in scores:  # a baseline stands beside, not alone
                scores.setdefault(place, {})[label] = next(iter(groups.values()))
    if not scores:
        return "This network has not been scored on any test set."
    labels = [_THIS, _BASELINE] if any(_BASELINE in groups for groups in scores.values()) else [_THIS]
    known = definitions()
    wanted = dict.fromkeys(name.removesuffix("_imp") for _, name, _ in SHORT_TABLE)
    meanings = [f"- {known[name]}" for name in (*wanted, "improvement")]
    note = "Means over the test mixtures, ± is the standard error. Where no face tells the order of the estimates, as with the "
    note += "baseline, they are scored in their best order."
    return "\n".join([matrix(scores, labels), long_table(scores), silent_outputs(scores) + note + "\n", *meanings])


def _use(address: str, config: Config) -> str:
    """The commands, in a checkout of the recipe."""
    lines = [f"./run.sh --stage 4 --test_dir DIR --exp_dir {address}          # mixtures, separated and scored"]
    if config.needs_visual:
        lines.insert(0, f"./separate.sh VIDEO --exp_dir {address}")
    return "In a checkout of the recipe:\n```\n" + "\n".join(lines) + "\n```"


def _kind(config: Config) -> str:
    return config.to_dict()["model"]["name"]
