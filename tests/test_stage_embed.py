"""Stage 2: what is cached is what the visual frontend gives, whatever happens to the run that caches it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from local_models.lipreading import Lipreading
from utils.data.cluster import CLUSTER_NAME, DIED
from utils.data.files import readable_bytes
from utils.data.manifest import Manifest, Utterance, write_manifest
from utils.data.mouths import read_mouths
from utils.embedding.embed import collect_clips, embed_manifests, plan_embedding
from utils.embedding.frontends import Frontend, load_frontend, store_name
from utils.embedding.kinds import load_kind
from utils.embedding.store import EmbeddingStore
from utils.errors import UsageError, UserError
from utils.stages import embed

N_CLIPS = 12


def write_clip(path: Path, seed: int, n_frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mouths = np.random.default_rng(seed).integers(0, 256, (n_frames, 96, 96), dtype=np.uint8)
    np.savez_compressed(path, data=mouths)


def make_corpus(root: Path, n_clips: int = N_CLIPS) -> Manifest:
    """Clips of three and four frames in turns; one has a frame more than its manifest says."""
    items = []
    for i in range(n_clips):
        n_frames = 3 + i % 2
        write_clip(root / f"mouths/{i:04d}.npz", i, n_frames + (i == 5))
        items.append(Utterance(f"{i:04d}", "s", f"audio/{i:04d}.wav", f"mouths/{i:04d}.npz", 16000, n_frames, 25.0))
    return write_corpus(root, items)


def write_corpus(root: Path, items: list[Utterance], name: str = "tiny") -> Manifest:
    path = root / "data" / name / "utterances.csv"
    how = {"corpus": name, "split": "utterances", "data_root": root, "sample_rate": 16000, "n_src": 1}
    return write_manifest(path, items=items, **how)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Bytes are compared between processes: all of them compute with one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """A demo visual frontend with random weights, whose normalisations know what passes through them."""
    torch.manual_seed(0)
    model = Lipreading(json.loads((repo_root / "conf/lipreading/demo_snv05x.json").read_text()), 5).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0  # one pass tells them all
    with torch.no_grad():
        model.features(torch.randn(2, 3, 88, 88))
    path = tmp_path_factory.mktemp("weights") / "lipreader.pth.tar"
    torch.save({"model_state_dict": model.state_dict(), "config": "demo_snv05x"}, path)
    return path


@pytest.fixture(scope="module")
def frontend(weights: Path) -> Frontend:
    return load_frontend(weights)


@pytest.fixture
def corpus(tmp_path: Path) -> Manifest:
    return make_corpus(tmp_path)


def arguments(root: Path, weights: Path, *more: str) -> list[str]:
    paths = ["--data_dir", str(root / "data/tiny"), "--frontend_weights", str(weights), "--dump_dir", str(root / "dump")]
    return [*paths, "--id", "cpu", "--embed_batch_size", "4", *more]


def run_stage(monkeypatch: pytest.MonkeyPatch, args: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["embed", *args])
    return embed.main()


def store_folder(root: Path, frontend: Frontend, view: str = "centre", precision: str = "float16") -> Path:
    return root / "dump/embeddings" / store_name(frontend, view, precision) / "tiny"


def all_bytes(folder: Path) -> dict[str, bytes]:
    store = EmbeddingStore(folder)
    return {key: store.get(key).tobytes() for key in store.keys()}  # noqa: SIM118 (not a dict)


def stored_keys(folder: Path) -> list[str]:
    """All keys of all parts, with their repetitions."""
    return sorted(clip["key"] for index in folder.glob("part-*.json") for clip in json.loads(index.read_text()))


@pytest.mark.parametrize(("view", "precision"), [("centre", "float16"), ("flip", "float32")])
def test_the_cache_holds_what_the_front_end_says_bit_for_bit(tmp_path, corpus, frontend, view, precision):
    store, problems = embed_manifests([corpus], frontend, tmp_path / "dump", view, precision, batch_size=1)
    assert not problems
    assert store.keys() == set(corpus.mouth_paths())
    assert store.dim == frontend.dim
    for key in corpus.mouth_paths():
        fresh = frontend(frontend.preprocess(read_mouths(corpus.resolve(key)), view)[None])[0].numpy()
        np.testing.assert_array_equal(store.get(key), fresh.astype(precision).astype(np.float32))
        assert np.abs(fresh).max() > 0
    assert json.loads((store.root.parent / "frontend.json").read_text()) == frontend.describe(view, precision)


def test_the_batching_changes_nothing_that_matters(tmp_path, corpus, frontend):
    one, _ = embed_manifests([corpus], frontend, tmp_path / "a", batch_size=1)
    many, _ = embed_manifests([corpus], frontend, tmp_path / "b", batch_size=16, nj=1)
    for key in corpus.mouth_paths():
        assert one.frames(key) == many.frames(key) == len(read_mouths(corpus.resolve(key)))
        np.testing.assert_allclose(one.get(key), many.get(key), rtol=1e-3, atol=1e-3 * np.abs(one.get(key)).max())


def test_the_real_front_end_on_real_mouths_caches_what_it_says(tmp_path, shared_data):
    paths = sorted((shared_data / "grid_dla/mouths").glob("*.npz"))[:3]
    items = [Utterance(p.stem, "s", f"{p.stem}.wav", str(p), 32000, len(read_mouths(p)), 25.0) for p in paths]
    lr_asd = load_frontend(shared_data / "weights/lr_asd_talkset.model")
    store, problems = embed_manifests([write_corpus(tmp_path, items)], lr_asd, tmp_path / "dump", batch_size=3)
    assert not problems
    fresh = lr_asd(torch.stack([lr_asd.preprocess(read_mouths(path)) for path in paths])).numpy()
    for path, expected in zip(paths, fresh, strict=True):
        np.testing.assert_array_equal(store.get(str(path)), expected.astype(np.float16).astype(np.float32))


def test_a_second_call_does_nothing_and_says_so(tmp_path, corpus, weights, frontend, monkeypatch, caplog):
    caplog.set_level("INFO")
    assert run_stage(monkeypatch, arguments(tmp_path, weights)) == 0
    assert f"{N_CLIPS} embedded now, 0 failed" in caplog.text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dump").rglob("*") if path.is_file()}
    caplog.clear()
    assert run_stage(monkeypatch, arguments(tmp_path, weights)) == 0
    assert "stage 2: up to date (centre view, clips in " in caplog.text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    caplog.clear()
    assert run_stage(monkeypatch, arguments(tmp_path, weights, "--force")) == 0
    assert f"{N_CLIPS} embedded now" in caplog.text
    assert stored_keys(store_folder(tmp_path, frontend)) == sorted(corpus.mouth_paths())


def test_a_full_disk_is_refused_before_anything_is_written_and_asked_for_missing_clips_alone(
    tmp_path, corpus, weights, frontend, monkeypatch
):
    monkeypatch.setattr("utils.data.files.free_bytes", lambda folder: 0)
    n_bytes = sum(item.frames for item in corpus.items) * frontend.dim * 2 * 2  # two views of float16
    wanted = f"dump/embeddings: the missing embeddings need about {readable_bytes(n_bytes)} where 0 B are free.*--dump_dir"
    with pytest.raises(UserError, match=wanted):
        run_stage(monkeypatch, arguments(tmp_path, weights, "--views", "centre,flip"))
    assert not (tmp_path / "dump").exists()
    monkeypatch.setattr("utils.data.files.free_bytes", lambda folder: 10**9)
    assert run_stage(monkeypatch, arguments(tmp_path, weights)) == 0
    monkeypatch.setattr("utils.data.files.free_bytes", lambda folder: 0)
    assert run_stage(monkeypatch, arguments(tmp_path, weights)) == 0
    with pytest.raises(UserError, match=f"about {readable_bytes(n_bytes // 2)} where 0 B"):
        run_stage(monkeypatch, arguments(tmp_path, weights, "--views", "centre,flip"))


def test_a_store_that_was_deleted_is_made_again_in_spite_of_the_mark(tmp_path, corpus, weights, frontend, monkeypatch):
    run_stage(monkeypatch, arguments(tmp_path, weights))
    folder = store_folder(tmp_path, frontend)
    first = all_bytes(folder)
    for path in folder.glob("part-*"):
        path.unlink()
    run_stage(monkeypatch, arguments(tmp_path, weights))
    assert all_bytes(folder) == first


def test_views_have_stores_and_marks_of_their_own(tmp_path, corpus, weights, frontend, monkeypatch):
    run_stage(monkeypatch, arguments(tmp_path, weights, "--views", "centre,flip"))
    centre, flip = (all_bytes(store_folder(tmp_path, frontend, view)) for view in ("centre", "flip"))
    assert centre.keys() == flip.keys() == set(corpus.mouth_paths())
    assert all(centre[key] != flip[key] for key in centre)
    assert len(list((tmp_path / "data/tiny").glob(".done-2-*.json"))) == 2


def test_only_changed_and_new_sources_are_embedded_again(tmp_path, corpus, frontend):
    first = embed_manifests([corpus], frontend, tmp_path / "dump")[0]
    old = all_bytes(first.root)
    write_clip(tmp_path / "mouths/0002.npz", 99, 3)
    os.utime(tmp_path / "mouths/0003.npz", ns=(1, 1))  # another time, the same content: kept
    write_clip(tmp_path / "mouths/new.npz", 100, 3)
    new_item = Utterance("new", "s", "audio/new.wav", "mouths/new.npz", 16000, 3, 25.0)
    changed = write_corpus(tmp_path, [*corpus.items, new_item])
    plan = plan_embedding([changed], frontend, tmp_path / "dump", "centre", "float16", 16, 1)
    assert (plan.n_clips, plan.n_pending) == (N_CLIPS + 1, 2)
    store, problems = embed_manifests([changed], frontend, tmp_path / "dump")
    assert not problems
    new = all_bytes(store.root)
    assert {key for key in new if old.get(key) != new[key]} == {"mouths/0002.npz", "mouths/new.npz"}
    assert stored_keys(store.root) == sorted(new)
    fresh = frontend(frontend.preprocess(read_mouths(tmp_path / "mouths/0002.npz"))[None])[0].numpy()
    np.testing.assert_allclose(store.get("mouths/0002.npz"), fresh, rtol=1e-3, atol=1e-3 * np.abs(fresh).max())


def test_broken_mouths_are_listed_counted_and_mended_later(tmp_path, corpus, weights, frontend, monkeypatch):
    (tmp_path / "mouths/0001.npz").write_bytes(b"no zip")
    (tmp_path / "mouths/0004.npz").unlink()
    with pytest.raises(UserError, match=r"failed\.csv: 2 of 12 mouths.*--max_failed"):
        run_stage(monkeypatch, arguments(tmp_path, weights))
    folder = store_folder(tmp_path, frontend)
    with open(folder / "failed.csv", newline="") as handle:
        rows = {row["path"]: row for row in csv.DictReader(handle)}
    assert rows.keys() == {"mouths/0001.npz", "mouths/0004.npz"}
    assert rows["mouths/0001.npz"]["id"] == "0001"
    assert rows["mouths/0001.npz"]["row"] == "3"
    assert "npz" in rows["mouths/0001.npz"]["reason"]
    assert "no such file" in rows["mouths/0004.npz"]["reason"]
    assert len(EmbeddingStore(folder)) == N_CLIPS - 2
    assert run_stage(monkeypatch, arguments(tmp_path, weights, "--max_failed", "2")) == 0
    write_clip(tmp_path / "mouths/0001.npz", 1, 4)
    write_clip(tmp_path / "mouths/0004.npz", 4, 3)
    assert run_stage(monkeypatch, arguments(tmp_path, weights)) == 0
    assert (folder / "failed.csv").read_text().strip() == "row,id,path,reason"
    assert len(EmbeddingStore(folder)) == N_CLIPS


def test_a_truncated_part_is_named_and_the_remedy_works(tmp_path, corpus, weights, frontend, monkeypatch):
    run_stage(monkeypatch, arguments(tmp_path, weights))
    folder = store_folder(tmp_path, frontend)
    data = next(folder.glob("part-*.npy"))
    data.write_bytes(data.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"{data.name}: damaged part.*delete it and {data.stem}.json.*stage 2"):
        run_stage(monkeypatch, arguments(tmp_path, weights))
    data.unlink()
    data.with_suffix(".json").unlink()
    run_stage(monkeypatch, arguments(tmp_path, weights))
    assert len(EmbeddingStore(folder)) == N_CLIPS


def test_one_path_that_means_two_files_is_refused(tmp_path, corpus):
    items = list(corpus.items)
    other = write_manifest(
        tmp_path / "b.csv", corpus="tiny", split="b", data_root=tmp_path / "b", sample_rate=1, n_src=1, items=items
    )
    with pytest.raises(UserError, match=r"b\.csv, row 2: mouths/0000\.npz.*same data_root"):
        collect_clips([corpus, other])
    assert len(collect_clips([corpus, corpus])) == N_CLIPS


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, frontend: Frontend) -> dict[str, bytes]:
    """The embeddings of an undisturbed run of one process."""
    root = tmp_path_factory.mktemp("undisturbed")
    return all_bytes(embed_manifests([make_corpus(root)], frontend, root / "dump", batch_size=4)[0].root)


SLOW_STAGE = """
import time
import torch
from utils.embedding import store as embedding_store
from utils.embedding import embed as embedding
from utils.errors import run_cli
from utils.stages import embed

torch.set_num_threads(1)
embedding_store.PART_FRAMES = 8
forward = embedding.forward_batch
embedding.forward_batch = lambda *args: (time.sleep(0.5), forward(*args))[1]
run_cli(embed.main)
"""


def test_killed_and_run_again_the_bytes_are_those_of_an_undisturbed_run(
    tmp_path, repo_root, corpus, weights, frontend, undisturbed, monkeypatch
):
    args = arguments(tmp_path, weights)
    folder = store_folder(tmp_path, frontend)
    process = subprocess.Popen([sys.executable, "-c", SLOW_STAGE, *args], cwd=repo_root)
    deadline = time.monotonic() + 300
    while not list(folder.glob("part-*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = all_bytes(folder)
    assert 0 < len(kept) < N_CLIPS
    assert kept.items() <= undisturbed.items()
    assert run_stage(monkeypatch, args) == 0
    assert all_bytes(folder) == undisturbed
    assert stored_keys(folder) == sorted(corpus.mouth_paths())
    assert not list(folder.glob(".tmp-*"))


def test_two_processes_share_the_work_and_their_store_equals_that_of_one(
    tmp_path, corpus, weights, frontend, undisturbed, monkeypatch
):
    folder = store_folder(tmp_path, frontend)
    marks = tmp_path / "data/tiny"
    with monkeypatch.context() as launcher:
        launcher.setenv("SLURM_PROCID", "1")
        launcher.setenv("SLURM_STEP_NUM_TASKS", "2")
        assert run_stage(monkeypatch, arguments(tmp_path, weights)) == 0
    assert 0 < len(EmbeddingStore(folder)) < N_CLIPS
    assert not list(marks.glob(".done-2-*.json"))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_stage(monkeypatch, arguments(tmp_path, weights)) == 0
    assert all_bytes(folder) == undisturbed
    assert stored_keys(folder) == sorted(corpus.mouth_paths())
    assert len(list(marks.glob(".done-2-*.json"))) == 1


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script that runs one process must do all of it
    ],
)
def test_the_share_of_a_process_is_what_its_launcher_says(environment, share):
    assert embed.process_share(environment) == share


def test_a_rank_beyond_its_group_is_refused():
    with pytest.raises(UsageError, match="RANK=2, WORLD_SIZE=2"):
        embed.process_share({"RANK": "2", "WORLD_SIZE": "2"})


def test_gpus_that_are_not_there_are_named():
    assert embed.choose_device("cpu", {}) == "cpu"
    with pytest.raises(UsageError, match="--id one"):
        embed.choose_device("one", {})
    with pytest.raises(UserError, match="no GPU 99"):
        embed.choose_device("99", {})


@pytest.mark.parametrize("wrong", ["--data_dir", "--frontend_weights", "--frontend_conf"])
def test_wrong_paths_fail_before_torch_is_imported(tmp_path, repo_root, corpus, weights, wrong):
    code = (
        "import sys; from utils.errors import UserError; from utils.stages import embed\n"
        "try: embed.main()\n"
        "except UserError as error: print(error, 'torch' in sys.modules, 'pandas' in sys.modules)"
    )
    args = [*arguments(tmp_path, weights), wrong, str(tmp_path / "nowhere")]
    command = [sys.executable, "-c", code, *args]
    result = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{wrong} {tmp_path / 'nowhere'}: no such f")
    assert result.stdout.endswith(" False False\n")


def test_a_folder_without_manifests_names_the_stage_that_makes_them(tmp_path, weights, monkeypatch):
    (tmp_path / "data/tiny").mkdir(parents=True)
    with pytest.raises(UserError, match=r"holds no manifest.*stage 0"):
        run_stage(monkeypatch, arguments(tmp_path, weights))


def test_of_a_share_whose_workers_die_only_the_clip_at_fault_is_lost(tmp_path, corpus, weights, monkeypatch):
    """The engine is a stand-in: it does the jobs here, and says of those with one clip that their workers died."""
    deadly, sizes = "mouths/0004.npz", []

    def work_through(function, jobs, nj, shared, tell):
        for job in jobs:
            _, share = job.given
            keys = [clip.key for group in share.groups for clip in group]
            sizes.append(len(keys))
            yield (job, None, DIED) if deadly in keys else (job, function(job.given), "")

    monkeypatch.setattr("utils.embedding.embed.work_through", work_through)
    monkeypatch.setattr("utils.embedding.embed._SHARE_FRAMES", 12)
    monkeypatch.setenv(CLUSTER_NAME, "dask://127.0.0.1:9")
    frontend = load_kind("lips", weights)
    (tmp_path / "mouths/0001.npz").write_bytes(b"no zip")
    store, problems = embed_manifests([corpus], frontend, tmp_path / "dump", batch_size=2)
    assert {problem.path: problem.reason for problem in problems}[deadly] == DIED
    assert sorted(problem.path for problem in problems) == ["mouths/0001.npz", deadly]
    assert sorted(store.keys()) == sorted({item.mouth_path for item in corpus.items} - {"mouths/0001.npz", deadly})
    assert 1 < max(sizes) < N_CLIPS and sizes.count(1) == max(sizes)
    monkeypatch.delenv(CLUSTER_NAME)
    whole, _ = embed_manifests([corpus], frontend, tmp_path / "here", batch_size=2)
    assert all(store.get(key).tobytes() == whole.get(key).tobytes() for key in store.keys())  # noqa: SIM118
