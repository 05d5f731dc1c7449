"""Two hosts, as two network namespaces with a cable between them: MPI and gloo over TCP.

Each host sees its own devices and addresses alone; ranks on different ones share no memory by MPI's
doing. mpiexec starts the other host's ranks by a launcher in the place of ssh.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_mpi_processes import ENDS, ENV, LIMIT, MPIEXEC, PROGRAM, hashes

pytestmark = pytest.mark.slow
ADDRESSES = ("10.77.31.1", "10.77.31.2")


class Hosts:
    """Two namespaces and the cable; all of it is gone afterwards, with what runs there."""

    def __init__(self, folder):
        token = secrets.token_hex(3)
        self.names = [f"okh{k}{token}" for k in range(2)]
        self.devices = [f"okv{k}{token}" for k in range(2)]
        self.launcher = folder / "launcher"

    def __enter__(self):
        try:
            for name in self.names:
                ip("netns", "add", name)
            first, second = self.devices
            ip("link", "add", first, "type", "veth", "peer", "name", second)
            for name, device, address in zip(self.names, self.devices, ADDRESSES):
                ip("link", "set", device, "netns", name)
                ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
                ip("-n", name, "link", "set", "lo", "up")
                ip("-n", name, "link", "set", device, "up")
        except BaseException:
            self.__exit__()
            raise
        self.launcher.write_text(
            "#!/bin/sh\n"
            'while [ "${1#-}" != "$1" ]; do shift; done\n'
            f"case $1 in {ADDRESSES[0]}) host={self.names[0]};; *) host={self.names[1]};; esac\n"
            'shift; exec ip netns exec $host sh -c "$*"\n'
        )
        self.launcher.chmod(0o755)
        return self

    def __exit__(self, *exception):
        for name in self.names:
            listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            for pid in listed.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def on(self, host, *command):
        """A command that runs on a host."""
        return ["ip", "netns", "exec", self.names[host], *map(str, command)]

    def mpiexec(self, *args):
        """The command that starts a rank on each."""
        ssh = ["-launcher", "ssh", "-launcher-exec", self.launcher, "-localhost", ADDRESSES[0]]
        ranks = ["-hosts", ",".join(ADDRESSES), "-ppn", "1", "-n", "2"]
        return self.on(0, MPIEXEC, *ssh, *ranks, sys.executable, PROGRAM, *args)

    def sent(self):
        """Bytes that the first host has sent over the cable."""
        text = subprocess.check_output(self.on(0, "cat", "/proc/net/dev"), text=True)
        return int(re.search(rf"{self.devices[0]}:\s*(.*)", text)[1].split()[8])


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True, timeout=20)


@pytest.fixture
def hosts(tmp_path):
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("two hosts take network namespaces: root, and ip of iproute2")
    two = Hosts(tmp_path)
    try:
        two.__enter__()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces are not to be had here: {error}")
    with contextlib.ExitStack() as stack:
        stack.push(two.__exit__)
        yield two


def run(hosts, *args, **environment):
    """Run a rank on each host by mpiexec; how it ended, and what they wrote."""
    tcp = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}
    ended = subprocess.run(
        hosts.mpiexec(*args), env={**ENV, **tcp, **environment},
        timeout=LIMIT, capture_output=True, text=True,
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("case", ("bits", "evolution", "basis"))
def test_ranks_on_two_hosts_are_as_one(hosts, case):
    before = hosts.sent()
    code, text = run(hosts, case)
    assert code == 0, text
    assert len(hashes(text)) == 2 and len(set(hashes(text))) == 1
    least = {"bits": 2 * 4 * 20_000 / 2, "evolution": 3 * 16 * 3, "basis": 60 * 4 * 200_000}[case]
    assert hosts.sent() - before > least  # they do not meet in shared memory


@pytest.mark.parametrize("case", ("shape", "raises", "exits", "killed", "leaves"))
def test_where_one_ends_the_other_host_does(hosts, case):
    code, text = run(hosts, case)
    assert code != 0 and "went on" not in text, text
    said, times = ENDS[case]
    if case != "killed":  # who tells of that is mpiexec, in words of its own
        assert text.count(said) >= times, text


def wait_for(paths, seconds, words=""):
    """Wait until all files have been written, with these words."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        texts = [path.read_text() if path.exists() else "" for path in paths]
        if all(text and words in text for text in texts):
            return
        time.sleep(0.1)
    raise AssertionError(f"not written within {seconds} s: {texts}")


def gloo_commands(hosts, case, tmp_path):
    return [
        hosts.on(
            k, "env", f"GLOO_SOCKET_IFNAME={hosts.devices[k]}",
            sys.executable, PROGRAM, case, k, 2, tmp_path / "store",
        )
        for k in range(2)
    ]  # fmt: skip


@pytest.mark.parametrize("transport", ("mpi", "gloo"))
def test_a_cut_cable_ends_both(hosts, tmp_path, transport):
    """No rank dies and no connection is closed: each has to find out by itself."""
    if transport == "gloo":
        pytest.importorskip("torch", reason="extra `torch`")
        commands = gloo_commands(hosts, "cut", tmp_path)
    else:
        commands = [hosts.mpiexec("cut")]
    environment = {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "MPI_PROGRAM_OUT": tmp_path}
    environment = {**ENV, **{k: str(v) for k, v in environment.items()}}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runs = [subprocess.Popen(command, env=environment, **quiet) for command in commands]
    try:
        files = [Path(tmp_path, f"rank{k}") for k in range(2)]
        wait_for(files, 60, "going")
        ip("-n", hosts.names[0], "link", "set", hosts.devices[0], "down")
        wait_for(files, 40, "RankError")
        if transport == "mpi":
            wait_for(files, 1, "has waited 4 s for another rank")
        else:
            assert all(one.wait(60) for one in runs)
    finally:
        hosts.__exit__()
        for one in runs:
            one.wait(20)


@pytest.mark.parametrize("case", ("bits", "raises"))
def test_gloo_between_two_hosts(hosts, tmp_path, case):
    pytest.importorskip("torch", reason="extra `torch`")
    before = hosts.sent()
    runs = [
        subprocess.Popen(
            command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for command in gloo_commands(hosts, case, tmp_path)
    ]
    texts = [one.communicate(timeout=LIMIT)[0] for one in runs]
    if case == "bits":
        assert [one.returncode for one in runs] == [0, 0], texts
        assert hashes(texts[0]) == hashes(texts[1]) != []
        assert hosts.sent() - before > 4 * 20_000
    else:
        assert all(one.returncode for one in runs) and ENDS[case][0] in texts[0], texts
