"""What an optimizer shows and refuses, from both sides: where it does, and where it does not."""

import warnings

import numpy as np
import pytest

import optkern
from optkern.optimizers import not_trained


def ones():
    return np.ones(3)


@pytest.mark.parametrize("follow", [False, True])
def test_of_replaced_parameters_is_said_what_trains_no_longer(follow):
    """Of the container that they were given in, and not where the optimizer follows it."""
    params = {"w": ones(), "b": ones()}
    opt = optkern.SGD(params, follow=follow)
    assert not_trained(opt, params) == ""
    params["w"] = ones()
    said = not_trained(opt, params)
    assert ("'w'" in said) is not follow
    assert bool(said) is not follow
    assert not_trained(opt, dict(params)) == ""  # another container is nobody's


def test_a_view_of_state_shows_what_was_written_through_it():
    opt = optkern.Adam([ones(), ones()])
    opt.step([ones(), ones()])
    view = opt.state
    view.update({0: {**view[0], "step": 7}})
    assert [view[0]["step"], view[1]["step"]] == [7, 1]
    del view[0]
    assert [view[0]["step"], view[1]["step"]] == [0, 1]
    assert not view[0]["exp_avg"].any() and view[1]["exp_avg"].all()
    view.clear()
    assert [view[0]["step"], view[1]["step"]] == [0, 0]
    one = view[1]
    one.update({"step": 3})
    assert one["step"] == opt.state[1]["step"] == 3


def test_state_is_set_to_a_view_of_its_own_alone():
    opt, other = optkern.Adam([ones()]), optkern.Adam([ones()])
    for value in ({}, dict(opt.state), other.state, None):
        with pytest.raises(AttributeError, match="state cannot be set; write its entries"):
            opt.state = value
    opt.state |= {0: {**opt.state[0], "step": 2}}
    assert opt.state[0]["step"] == 2


def test_a_warning_of_what_a_load_replaced_is_at_the_line_of_the_load():
    saved, opt = optkern.Adam([ones()]).state_dict(), optkern.Adam([ones()], lr=0.5)

    def load():
        opt.load_state_dict(saved)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load()
    (warning,) = seen
    assert (warning.filename, warning.lineno) == (__file__, load.__code__.co_firstlineno + 1)
    assert "lr=0.5 (0.001 was loaded)" in str(warning.message)
