"""What a save or load does at the edge of a line, from both sides."""

import errno
import io
import os
import stat
import zipfile

import numpy as np
import pytest

import optkern
from optkern.checkpoint.format import _checked_members
from optkern.checkpoint.settings import warn_of_lost


def made(**options):
    return optkern.Adam(np.ones(300, np.float32), **options)


@pytest.mark.parametrize("number, raised", [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_is_an_error_but_where_no_folder_can(
    tmp_path, monkeypatch, number, raised
):
    fsync = os.fsync

    def failing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    if raised:
        with pytest.raises(OSError, match=os.strerror(number)):
            optkern.save(tmp_path / "x", made())
    else:
        optkern.save(tmp_path / "x", made())
        optkern.load(tmp_path / "x", made())


def test_an_interrupt_where_an_archive_begins_comes_through(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile, "ZipFile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optkern.save(tmp_path / "run.npz", made())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("here", ["bfloat16", "int8"])
def test_a_load_in_parts_names_another_form_of_state(tmp_path, here):
    optkern.save(tmp_path / "x", made(state_dtype="bfloat16"))
    report = optkern.load(tmp_path / "x", made(state_dtype=here), strict=False)
    assert ("state_dtype" in report.mismatched_keys) is (here != "bfloat16")


@pytest.mark.parametrize("length", [80, 81])
def test_a_name_of_a_file_is_said_up_to_80_characters(length):
    with pytest.warns(UserWarning, match=f"a callable for {'n' * 80}, of which"):
        warn_of_lost("run.npz", ("n" * length,), {"optimizer": {}})


@pytest.mark.parametrize("count, more", [(5, ""), (6, " and 1 more")])
def test_of_many_names_five_are_said(count, more):
    names = [f"n{k}" for k in range(count)]
    with pytest.warns(UserWarning, match=f"for n0, n1, n2, n3, n4{more}, of which"):
        warn_of_lost("run.npz", tuple(names), {"optimizer": {}})


@pytest.mark.parametrize("name", ["params/W.npy", "params/W.txt"])
def test_a_member_beside_the_index_is_an_array(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("optkern.json", "{}")
        archive.writestr(name, "x")
        if name.endswith(".npy"):
            assert len(_checked_members(archive, 1000)) == 2
        else:
            with pytest.raises(ValueError, match=r"'params/W\.txt' is no array"):
                _checked_members(archive, 1000)
