"""The embedding store: what is written is what is read, in every process, and damage is named."""

import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from utils.embedding.store import EmbeddingStore, EmbeddingWriter, Source
from utils.errors import UserError

DIM = 6
SOURCE = Source(10, 20, "ab" * 32)


def make_embedding(seed: int, n_frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_frames, DIM)).astype(np.float32)


def fill(root: Path, names: str = "abc", precision: str = "float32") -> dict[str, np.ndarray]:
    embeddings = {f"mouths/{name}.npz": make_embedding(ord(name), 4 + i) for i, name in enumerate(names)}
    with EmbeddingWriter(root, precision) as writer:
        for key, embedding in embeddings.items():
            writer.add(key, embedding, SOURCE)
    return embeddings


@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_what_is_written_is_read_rounded_to_the_precision(tmp_path, precision):
    embeddings = fill(tmp_path, precision=precision)
    store = EmbeddingStore(tmp_path)
    assert store.dim == DIM
    assert store.keys() == embeddings.keys()
    for key, embedding in embeddings.items():
        read = store.get(key)
        assert key in store
        assert store.frames(key) == len(embedding)
        assert read.dtype == np.float32
        assert type(read) is np.ndarray  # not a map, which would keep the part's file open in whoever holds it
        np.testing.assert_array_equal(read, embedding.astype(precision).astype(np.float32))


def test_numbers_that_lie_in_memory_column_by_column_are_stored_frame_by_frame(tmp_path):
    embedding = make_embedding(3).T.copy().T  # as a network's transposed output
    with EmbeddingWriter(tmp_path, "float32") as writer:
        writer.add("mouths/t.npz", embedding, SOURCE)
    np.testing.assert_array_equal(EmbeddingStore(tmp_path).get("mouths/t.npz"), embedding)
    np.save(next(tmp_path.glob("part-*.npy")), embedding)
    with pytest.raises(UserError, match="frame after frame, is expected"):
        EmbeddingStore(tmp_path)


def test_a_stretch_is_the_slice_and_may_be_changed_without_touching_the_store(tmp_path):
    key, embedding = next(iter(fill(tmp_path).items()))
    store = EmbeddingStore(tmp_path)
    stretch = store.get(key, 1, 2)
    np.testing.assert_array_equal(stretch, embedding[1:3])
    stretch[:] = 0
    np.testing.assert_array_equal(store.get(key, 1, 2), embedding[1:3])


def test_one_frame_past_the_end_repeats_the_last_one(tmp_path):
    embeddings = fill(tmp_path)  # b follows a within the part: its first frame must not be what is repeated
    store = EmbeddingStore(tmp_path)
    embedding = embeddings["mouths/a.npz"]
    np.testing.assert_array_equal(store.get("mouths/a.npz", 0, 5), np.concatenate([embedding, embedding[-1:]]))
    np.testing.assert_array_equal(store.get("mouths/a.npz", 4, 1), embedding[-1:])


@pytest.mark.parametrize(("start", "count"), [(0, 6), (4, 2), (5, 1), (-1, 2), (6, None)])
def test_frames_outside_the_clip_are_an_error_that_names_it(tmp_path, start, count):
    fill(tmp_path)
    with pytest.raises(UserError, match="mouths/a.npz.*4 frames"):
        EmbeddingStore(tmp_path).get("mouths/a.npz", start, count)


def test_an_unknown_clip_and_an_absent_store_name_the_stage_that_makes_them(tmp_path):
    fill(tmp_path)
    with pytest.raises(UserError, match=r"no embedding of mouths/z\.npz; run stage 2"):
        EmbeddingStore(tmp_path).get("mouths/z.npz")
    with pytest.raises(UserError, match="no such embedding store; stage 2"):
        EmbeddingStore(tmp_path / "nowhere")


def read_all(store: EmbeddingStore, queue: multiprocessing.Queue) -> None:
    queue.put({key: store.get(key) for key in store.keys()})  # noqa: SIM118 (not a dict)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_read_the_same(tmp_path, method):
    embeddings = fill(tmp_path)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=read_all, args=(EmbeddingStore(tmp_path), queue))
    worker.start()
    read = queue.get(timeout=60)
    worker.join(timeout=60)
    assert read.keys() == embeddings.keys()
    for key, embedding in embeddings.items():
        np.testing.assert_array_equal(read[key], embedding)


def test_a_pickled_store_carries_its_folder_alone(tmp_path):
    embeddings = fill(tmp_path)
    text = pickle.dumps(EmbeddingStore(tmp_path))
    assert len(text) < 500
    np.testing.assert_array_equal(pickle.loads(text).get("mouths/b.npz"), embeddings["mouths/b.npz"])


def test_parts_close_by_size_and_hold_what_was_added_before(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.embedding.store.PART_FRAMES", 8)
    with EmbeddingWriter(tmp_path) as writer:
        for seed in range(5):
            writer.add(f"{seed}", make_embedding(seed), SOURCE)
            writer.commit_if_due()
        assert len(EmbeddingStore(tmp_path)) == 4  # two parts of two; the fifth is in the open part
    assert len(EmbeddingStore(tmp_path)) == 5
    assert len(list(tmp_path.glob("part-*.npy"))) == 3


def test_a_writer_that_fails_commits_nothing_of_its_open_part(tmp_path):
    with pytest.raises(RuntimeError), EmbeddingWriter(tmp_path) as writer:
        writer.add("a", make_embedding(0), SOURCE)
        raise RuntimeError
    assert len(EmbeddingStore(tmp_path)) == 0


def test_orphans_of_a_killed_writer_are_removed_and_never_read(tmp_path):
    embeddings = fill(tmp_path)
    for name in ("part-0123456789abcdef.npy", ".tmp-half.npy", ".tmp-half.json"):
        (tmp_path / name).write_bytes(b"half a file")
    assert EmbeddingStore(tmp_path).keys() == embeddings.keys()
    EmbeddingWriter(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir() if path.name != ".lock"} == {".npy", ".json"}
    assert len(list(tmp_path.glob("*.npy"))) == 1
    assert not list(tmp_path.glob(".tmp-*"))


KILLED_WRITER = """
import os, signal, sys
import numpy as np
from utils.data import files
from utils.embedding import store as embedding_store

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_halfway(handle, array):
    handle.write(b"half of it")
    handle.flush()
    die()

root, moment = sys.argv[1:]
with embedding_store.EmbeddingWriter(root) as writer:
    for key in ("kept", "lost"):
        writer.add(key, np.ones((2, 6), np.float32), embedding_store.Source(1, 2, "ab"))
        if key == "lost" and moment == "in the data":
            np.save = die_halfway
        elif key == "lost" and moment == "between data and index":
            embedding_store.write_text = die
        elif key == "lost":
            replace = os.replace
            files.os.replace = lambda old, new: die() if str(new).endswith(".json") else replace(old, new)
        writer.commit()
"""


@pytest.mark.parametrize("moment", ["in the data", "between data and index", "before the index counts"])
def test_a_commit_killed_at_any_moment_loses_that_part_alone_and_leaves_no_litter(tmp_path, repo_root, moment):
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path), moment]
    assert subprocess.run(command, cwd=repo_root).returncode == -signal.SIGKILL
    assert EmbeddingStore(tmp_path).keys() == {"kept"}
    assert len(list(tmp_path.iterdir())) > 3  # something was left: the lock, a part and litter
    with EmbeddingWriter(tmp_path) as writer:
        writer.add("lost", make_embedding(1), SOURCE)
    assert EmbeddingStore(tmp_path).keys() == {"kept", "lost"}
    assert len(list(tmp_path.iterdir())) == 5


def write_and_forget(root: Path, rank: int) -> None:
    for round_number in range(15):
        with EmbeddingWriter(root, "float32") as writer:
            writer.forget({f"{rank}-{i}" for i in range(3)})
            for i in range(3):
                writer.add(f"{rank}-{i}", np.full((2, DIM), 100 * rank + round_number, np.float32), SOURCE)
                writer.commit()


def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_and_forget, args=(tmp_path, rank)) for rank in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(timeout=60)
    assert [process.exitcode for process in writers] == [0, 0, 0]
    store = EmbeddingStore(tmp_path)
    assert store.keys() == {f"{rank}-{i}" for rank in range(3) for i in range(3)}
    assert all((store.get(key) == 100 * int(key[0]) + 14).all() for key in store.keys())  # noqa: SIM118
    assert len(list(tmp_path.glob("part-*.json"))) == 9


def test_forgotten_clips_are_gone_and_the_others_stay(tmp_path):
    embeddings = fill(tmp_path)
    EmbeddingWriter(tmp_path).forget({"mouths/a.npz", "mouths/z.npz"})
    store = EmbeddingStore(tmp_path)
    assert store.keys() == {"mouths/b.npz", "mouths/c.npz"}
    np.testing.assert_array_equal(store.get("mouths/c.npz"), embeddings["mouths/c.npz"])
    EmbeddingWriter(tmp_path).forget(store.keys())
    assert not list(tmp_path.glob("part-*"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_values_that_the_precision_cannot_hold_are_refused(tmp_path, value):
    embedding = make_embedding(0)
    embedding[1, 1] = value
    with EmbeddingWriter(tmp_path, "float16") as writer, pytest.raises(UserError, match="not finite in float16"):
        writer.add("a", embedding, SOURCE)
    assert len(EmbeddingStore(tmp_path)) == 0


def test_a_truncated_part_names_itself_and_the_remedy_works(tmp_path):
    fill(tmp_path)
    data = next(tmp_path.glob("part-*.npy"))
    for size in (data.stat().st_size - 4, 40, 0):
        data.write_bytes(data.read_bytes()[:size])
        with pytest.raises(UserError, match=rf"{data.name}: damaged.*delete it and {data.stem}\.json.*stage 2"):
            EmbeddingStore(tmp_path)
    data.unlink()
    with pytest.raises(UserError, match="damaged"):
        EmbeddingStore(tmp_path)
    data.with_suffix(".json").unlink()
    embeddings = fill(tmp_path)
    assert EmbeddingStore(tmp_path).keys() == embeddings.keys()


@pytest.mark.parametrize("text", ["[{", "{}x", '[{"key": "a"}]', "7", '[["a", 1]]', '{"a": 1}'])
def test_a_damaged_index_is_named(tmp_path, text):
    fill(tmp_path)
    index = next(tmp_path.glob("part-*.json"))
    index.write_text(text)
    with pytest.raises(UserError, match=rf"{index.stem}.*damaged.*index"):
        EmbeddingStore(tmp_path)


def test_an_index_beyond_its_data_is_damage(tmp_path):
    fill(tmp_path)
    index = next(tmp_path.glob("part-*.json"))
    clips = json.loads(index.read_text())
    clips[-1]["frames"] += 1
    index.write_text(json.dumps(clips))
    with pytest.raises(UserError, match="beyond the 15 of the data"):
        EmbeddingStore(tmp_path)


def test_pickled_data_is_not_loaded(tmp_path):
    fill(tmp_path)
    np.save(next(tmp_path.glob("part-*.npy")), np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="damaged"):
        EmbeddingStore(tmp_path)


def test_twenty_thousand_clips_open_in_well_under_a_second(tmp_path):
    with EmbeddingWriter(tmp_path) as writer:
        for i in range(20_000):
            source = Source(300_000 + i, 1_700_000_000_000_000_000 + i, f"{i:064x}")
            writer.add(f"mouths/train/{i:011d}.npz", np.zeros((50, 1), np.float32), source)
            writer.commit_if_due()
    assert len(list(tmp_path.glob("*.npy"))) > 50
    times = []
    for _ in range(3):
        start = time.process_time()  # this machine may be busy with other work
        store = EmbeddingStore(tmp_path)
        times.append(time.process_time() - start)
    assert len(store) == 20_000
    assert min(times) < 0.8


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_part_that_is_lost_while_the_store_is_open_is_named(tmp_path: Path, harm: str) -> None:
    with EmbeddingWriter(tmp_path / "store") as writer:
        writer.add("a", np.ones((20, 4), dtype=np.float32), Source(0, 0, ""))
    store = EmbeddingStore(tmp_path / "store")
    part = next((tmp_path / "store").glob("part-*.npy"))
    part.write_bytes(part.read_bytes()[:-60]) if harm == "cut" else part.unlink()
    with pytest.raises(UserError, match="cut off" if harm == "cut" else "cannot be read"):
        store.get("a")
