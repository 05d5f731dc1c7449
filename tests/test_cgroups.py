"""How many cores a cgroup allows."""

import sys

import pytest

from optkern.kernels import threads


def cgroup(tmp_path, lines, files):
    """A root folder with a process's cgroup membership and the groups' files."""
    for name, text in {"proc/self/cgroup": lines, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(tmp_path)


TOP, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"
CGROUPS = {
    "version 2": ("0::/a/b", {f"{TOP}/a/b/cpu.max": "150000 100000\n"}, 2),
    "version 2, above": ("0::/a/b", {f"{TOP}/a/cpu.max": "300000 100000\n"}, 3),
    "version 2, in a container": ("0::/", {f"{TOP}/cpu.max": "50000 100000\n"}, 1),
    "version 2, none": ("0::/a", {f"{TOP}/a/cpu.max": "max 100000\n"}, None),
    "version 1": (
        "5:cpu,cpuacct:/job\n3:memory:/job",
        {f"{V1}/job/cpu.cfs_quota_us": "400000\n", f"{V1}/job/cpu.cfs_period_us": "100000\n"},
        4,
    ),
    "version 1, none": (
        "5:cpu,cpuacct:/",
        {f"{V1}/cpu.cfs_quota_us": "-1\n", f"{V1}/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "no cgroup": ("", {}, None),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_cgroup_quota(tmp_path, case):
    lines, files, cores = CGROUPS[case]
    found = threads._cgroup_cores(cgroup(tmp_path, lines, files))
    assert found == (sys.maxsize if cores is None else cores)
