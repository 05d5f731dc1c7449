"""Instruction sets by their names; that `OPTKERN_ISA` chooses one is in test_threads.py."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

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


SOURCE = Path(__file__).parent.parent / "optkern" / "kernels" / "_cpu.pxd"
ASKED = """
#include <stdio.h>
int main(void) {
    unsigned all = ~0u;
    int k;
    __builtin_cpu_init();
#define HAS(what) (__builtin_cpu_supports(what) != 0)
    printf("%d ", HAS("avx2") && HAS("fma") && HAS("bmi") && HAS("bmi2"));
    printf("%d ", HAS("avx512f") && HAS("avx512bw") && HAS("avx512cd") && HAS("avx512dq")
                  && HAS("avx512vl"));
    printf("%d", optkern_cpu_level());
    printf("\\n%d %d", optkern_level_of(all, all, all, all), optkern_level_of(0, 0, 0, 0));
    for (k = 0; k < 128; k++) {
        unsigned bit[4] = {0, 0, 0, 0};
        bit[k / 32] = 1u << k % 32;
        printf("%s%d", k % 32 ? " " : "\\n",
               optkern_level_of(all & ~bit[0], all & ~bit[1], all & ~bit[2], all & ~bit[3]));
    }
    return 0;
}
"""
# Bits without which there is no v3, and no v4, by Intel's manual: CPUID's registers, and XCR0.
NO_V3 = ({12, 22, 27, 28, 29}, {3, 5, 8}, {5}, {1, 2})
NO_V4 = (set(), {16, 17, 28, 30, 31}, set(), {5, 6, 7})


@pytest.mark.skipif(
    not (platform.machine() == "x86_64" and shutil.which("gcc") and SOURCE.exists())
    or sys.platform != "linux",
    reason="asks gcc on x86-64, of the sources",
)
def test_processor_is_known_by_its_registers(tmp_path):
    """What gcc's own question says, and each bit by itself, as nothing here runs MSVC's."""
    (tmp_path / "cpu.c").write_text(SOURCE.read_text().split('"""')[3] + ASKED)
    command = ["gcc", "-Wall", "-Werror", "cpu.c", "-o", "cpu"]
    subprocess.run(command, cwd=tmp_path, check=True)
    answer = subprocess.run([tmp_path / "cpu"], capture_output=True, text=True, check=True)
    (v3, v4, level), ends, *registers = (
        [int(x) for x in line.split()] for line in answer.stdout.splitlines()
    )
    assert level == (v3 and 1 + v4)
    assert ends == [2, 0]
    for levels, no_v3, no_v4 in zip(registers, NO_V3, NO_V4, strict=True):
        assert levels == [0 if k in no_v3 else 1 if k in no_v4 else 2 for k in range(32)]
