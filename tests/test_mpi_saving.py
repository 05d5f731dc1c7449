"""Sharded checkpoints: any number of ranks, or none, goes on exactly from what any number wrote."""

import json

import mpi_ranks
import numpy as np
import pytest
from test_mpi import Sharded, train, values

import optkern
import optkern.mpi

MAKE = {
    "adamw": lambda where, p: where.AdamW(p, lr=0.1, clip_norm=1.0, ema_decay=0.9),
    "accumulated": lambda where, p: where.Adam(p, lr=0.1, accumulate=3),
    "int8": lambda where, p: where.Adam(p, lr=0.1, state_dtype="int8"),
    "adafactor": lambda where, p: where.Adafactor(p, lr=0.1),
    "free": lambda where, p: where.ScheduleFreeAdamW(p, lr=0.1),
    "nadam": lambda where, p: where.NAdam(p, lr=lambda step: 0.1 / (1 + step)),
}


class Rank:
    """Stand in the module's place: its classes are sharded on a rank."""

    def __init__(self, rank):
        self.rank = rank

    def __getattr__(self, name):
        cls = getattr(optkern, name)
        return lambda p, **options: Sharded(cls, p, comm=self.rank, bucket_bytes=30_000, **options)


def dense_run(make):
    params = values()
    opt = make(optkern, params)
    train(opt, params, steps=2)
    return opt, params


def assert_alike(params, others):
    for name in params:
        assert params[name].tobytes() == others[name].tobytes(), name


def assert_same(state, saved):
    """Both have the same keys, and the same bits under each."""
    assert sorted(state) == sorted(saved)
    for label, entry in saved["state"].items():
        assert sorted(entry) == sorted(state["state"][label])
        for key, value in entry.items():
            assert np.array_equal(value, state["state"][label][key]), (label, key)


@pytest.mark.parametrize("which", MAKE)
def test_other_numbers_of_ranks_go_on_exactly(which, tmp_path):
    make, folder = MAKE[which], tmp_path / "run"

    def first(rank):
        params = values()
        opt = make(Rank(rank), params)
        train(opt, params, steps=2)
        opt.save(folder, extra={"epoch": 3})
        return opt.state_dict()

    def second(rank):
        params = values(seed=8)
        opt = make(Rank(rank), params)
        report = opt.load(folder)
        assert report.extra == {"epoch": 3} and opt.steps == saved["steps"]
        assert_same(opt.state_dict(), saved)
        if rank.size != 3:  # whose steps have not the dense one's bits
            train(opt, params)
        return params

    dense, dense_params = dense_run(make)
    saved = dense.state_dict()
    for state in mpi_ranks.run(2, first):
        assert_same(state, saved)
    again = values(seed=8)
    one = make(optkern, again)
    assert optkern.load(folder, one).extra == {"epoch": 3}
    train(dense, dense_params)
    train(one, again)
    assert_alike(again, dense_params)
    mpi_ranks.run(3, second)
    for ranks in (1, 4):
        for params in mpi_ranks.run(ranks, second):
            assert_alike(params, dense_params)


def test_a_file_of_one_process_is_taken_by_ranks(tmp_path):
    make = MAKE["adamw"]
    dense, dense_params = dense_run(make)
    optkern.save(tmp_path / "one.npz", dense)
    state = dense.state_dict()
    train(dense, dense_params)

    def work(rank):
        params = values(seed=8)
        opt = make(Rank(rank), params)
        opt.load(tmp_path / "one.npz")
        train(opt, params)
        other = values(seed=8)
        by_dict = make(Rank(rank), other)
        by_dict.load_state_dict(state)
        return params, by_dict.state_dict()

    for params, found in mpi_ranks.run(2, work):
        assert_alike(params, dense_params)
        assert found["steps"] == 2
        assert np.array_equal(found["state"]["W"]["exp_avg"], state["state"]["W"]["exp_avg"])


def saved_by_two(folder):
    def work(rank):
        params = values()
        opt = MAKE["adamw"](Rank(rank), params)
        train(opt, params, steps=1)
        opt.save(folder)

    mpi_ranks.run(2, work)


def test_the_one_before_is_there_until_the_next_is_whole(tmp_path, monkeypatch):
    saved_by_two(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    assert len(before) == 3

    def fails(owner, folder, name, *args):
        if "-1-of-2" in name:
            raise OSError(28, "no space left")
        return written(owner, folder, name, *args)

    written = optkern.checkpoint.shards.write_shard
    monkeypatch.setattr(optkern.checkpoint.shards, "write_shard", fails)

    def work(rank):
        opt = MAKE["adamw"](Rank(rank), values())
        with pytest.raises((OSError, optkern.mpi.RankError), match="no space left"):
            opt.save(tmp_path)

    mpi_ranks.run(2, work)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    monkeypatch.undo()
    saved_by_two(tmp_path)
    after = sorted(p.name for p in tmp_path.iterdir())
    assert len(after) == 3 and set(after) & set(before) == {"index.json"}


def test_damage_is_told_and_nothing_changes(tmp_path):
    saved_by_two(tmp_path)
    params = values()
    one = MAKE["adamw"](optkern, params)
    index = json.loads((tmp_path / "index.json").read_text())
    shard = tmp_path / index["files"][1]
    good = shard.read_bytes()

    def refused(match, error=ValueError):
        with pytest.raises(error, match=match):
            optkern.load(tmp_path, one)
        assert one.steps == 0
        assert_alike(params, values())

    shard.write_bytes(good[:-100])
    refused("damaged|cut off|not")
    shard.write_bytes(good)
    (tmp_path / "index.json").write_text(json.dumps({**index, "files": index["files"][:1]}))
    refused("the pieces of '.*' are not all of it")
    (tmp_path / "index.json").write_text(json.dumps({**index, "files": ["../x"]}))
    refused("is no index of an optkern checkpoint")
    (tmp_path / "index.json").write_text("[" * 100)
    refused("is no index of an optkern checkpoint")
    (tmp_path / "index.json").unlink()
    refused("a folder's checkpoint has an index.json", OSError)


@pytest.mark.parametrize("act", ("save", "load"))
@pytest.mark.parametrize("folder", (3.5, None, "", b"run"))
def test_a_folder_that_is_none_on_one_rank_is_told_on_all(act, folder, tmp_path):
    def work(rank):
        opt = Sharded(optkern.AdamW, values(), comm=rank)
        with pytest.raises((TypeError, optkern.mpi.RankError)) as error:
            getattr(opt, act)(folder if rank.rank else tmp_path / "run")
        return str(error.value)

    calm, own = mpi_ranks.run(2, work)
    assert f"{act}: folder must be a str or path, not empty, got {folder!r}" in own
    assert f"rank 1 could not {act}: " in calm and not (tmp_path / "run").exists()


def test_save_says_what_to_call(tmp_path):
    opt = Sharded(optkern.AdamW, values(), comm=optkern.mpi.Alone())
    with pytest.raises(TypeError, match=r"call opt\.save\(folder\), on all ranks"):
        optkern.save(tmp_path / "x", opt)
