"""The speed of the loader: the tool reads and trains what a conf says, fills its table and names what it misses."""

import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny_corpus import DIM, make_corpus

from utils.errors import UsageError, UserError
from utils.tools import loader_throughput
from utils.tools.loader_throughput import table
from utils.training.config import read_config

CONF = {
    "model": {
        "name": "av_tfdprnn", "n_filters": 64, "kernel_size": 64, "stride": 32, "bands": "8x4", "bn_chan": 8, "hid_size": 4,
        "n_repeats": 1, "n_audio_repeats": 0, "visual_chan": 8, "visual_hid": 8, "visual_blocks": 1,
    },
    "data": {"segment_sec": 0.4, "epoch_size": 8},
    "training": {"batch_size": 2},
}  # fmt: skip


@pytest.fixture
def corpus(tmp_path):
    return make_corpus(tmp_path / "corpus", frames=20)


@pytest.fixture
def run(corpus, tmp_path, monkeypatch):
    """A function that runs the program on the tiny corpus with more words of the command line."""
    (tmp_path / "conf.yml").write_text(yaml.safe_dump(CONF))
    (tmp_path / "weights").touch()
    (tmp_path / "dump/embeddings/store").mkdir(parents=True)
    (tmp_path / "dump/embeddings/store/tiny").symlink_to(corpus["store"])
    monkeypatch.setattr("utils.embedding.frontends.load_frontend", lambda *_: SimpleNamespace(dim=DIM))
    monkeypatch.setattr("utils.embedding.frontends.store_name", lambda frontend, view, precision: "store")

    def run_program(*words: str) -> None:
        given = ["--conf", tmp_path / "conf.yml", "--data_dir", tmp_path / "corpus/data", "--dump_dir", tmp_path / "dump",
                 "--batches", 3, "--steps", 2, *words]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["loader_throughput", *map(str, given)])
        loader_throughput.main()

    threads = torch.get_num_threads()
    yield run_program
    torch.set_num_threads(threads)


def test_a_row_for_each_number_of_workers_and_the_section(run, tmp_path, capsys):
    faces = ("--frontend_weights", tmp_path / "weights")
    changes = "--extra_speaker_prob 0.5 --max_dropped_ratio 0.2"
    run(*faces, "--workers", "0,1", "--results", tmp_path / "R.md", "--train_args", changes)
    text = (tmp_path / "R.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.strip("| ")[:2] in ("0 ", "1 ")]
    assert [int(row[0]) for row in rows] == [0, 1]
    for row in rows:
        delivered, consumed, ratio = map(float, row[1:])
        assert min(delivered, consumed) > 0 and ratio == pytest.approx(delivered / consumed, rel=0.05, abs=0.1)
    assert "<!-- begin loader-throughput -->" in text and "git revision" in text
    assert rows[0][0] in capsys.readouterr().out


def test_an_audio_only_conf_needs_no_visual_frontend(run, capsys):
    run("--workers", "0", "--train_args", "--n_faces 0")
    assert capsys.readouterr().out.startswith("| loader processes |")


def test_batches_go_on_from_epoch_to_epoch(corpus):
    class Numbers(torch.utils.data.Dataset):
        n_with_extra_speaker = 0

        def __len__(self):
            return 4

        def __getitem__(self, key):
            return {"mixture": torch.tensor(key)}

    config = read_config("conf/demo.yml", ["--batch_size", "2"])
    batches = loader_throughput._batches(config, Numbers(), corpus["train"], 0)
    epochs = [next(batches)["mixture"][:, 0].tolist() for _ in range(6)]
    assert epochs == [[0, 0]] * 2 + [[1, 1]] * 2 + [[2, 2]] * 2


def test_the_ratio_is_delivered_over_consumed():
    lines = [line.replace(" ", "") for line in table({0: 30.0, 2: 60.0}, 12.0).splitlines()]
    assert lines[2:4] == ["|0|30.0|12.00|2.5|", "|2|60.0|12.00|5.0|"]
    assert "ratio of r leaves training r / (1 + r) of the time" in table({0: 30.0}, 12.0)


@pytest.mark.parametrize(
    ("words", "said", "kind"),
    [
        ((), "give one", UserError),
        (("--workers", "many"), "no list of whole numbers", UsageError),
        (("--steps", "0"), "no whole number above zero", UsageError),
        (("--section", "two words"), "a name has letters", UsageError),
        (("--train_args", "--lr '3"), "No closing quotation", UsageError),
        (("--train_args", "--noise_prob 0.5"), "needs data.noise_dir", UserError),
        (("--frontend_weights", "weights", "--dump_dir", "elsewhere"), "stage 2 makes them", UserError),
        (("--train_args", "--n_faces 0 --batch_size 99"), "lower --batch_size", UserError),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, words, said, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said) as caught:
        run(*words)
    assert "\n" not in str(caught.value)
