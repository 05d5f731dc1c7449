"""Instruction sets by their names; that `OPTKERN_ISA` chooses one is in test_threads.py."""

import pytest
from conftest import ISAS

import optkern
from optkern.kernels import runtime


@pytest.mark.parametrize("isa", ("v9", "avx2", "V3", "baseline "))
def test_instruction_set_that_is_not_there(run_python, isa):
    result = run_python("import optkern", OPTKERN_ISA=isa)
    assert result.returncode != 0
    message = result.stderr.splitlines()[-1]
    assert message.startswith(f"ValueError: OPTKERN_ISA={isa!r}")
    assert all(name in message for name in ISAS)


def test_instruction_sets_are_known_by_name():
    assert set(ISAS) <= {"baseline", "v3", "v4"} and ISAS[0] == "baseline"
    for isa in ISAS:
        runtime.use_isa(isa)
        assert optkern.isa() == isa
    with pytest.raises(ValueError, match="v9"):
        runtime.use_isa("v9")
    assert optkern.isa() == ISAS[-1]
