"""The long-vector passes and the recurrence equal their NumPy twins bit for bit."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import spread

from optkern.curvature import recurrence, reference
from optkern.kernels import runtime

LENGTHS = [0, 1, 15, 16, 17, 4095, 4096, 4097, 5000, 3 * 4096, 70001]
DTYPES = [np.float32, np.float64]
THREADS = [1, 2, 3, 5]


@pytest.fixture(params=runtime.AVAILABLE_ISAS)
def isa(request):
    before = runtime.isa()
    runtime.use_isa(request.param)
    yield request.param
    runtime.use_isa(before)


def vectors(n, dtype, count, seed=0):
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-3, 3, count)
    return [np.asarray(s * rng.standard_normal(n), dtype) for s in scales]


def bits(x):
    x = np.asarray(x)
    assert x.dtype in (np.float32, np.float64)
    return x.view(np.uint32 if x.dtype == np.float32 else np.uint64)


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape
    return bool(np.all((bits(a) == bits(b)) | (np.isnan(a) & np.isnan(b))))


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_passes_equal_their_twins(isa, n, dtype, threads):
    x, y, *rows = vectors(n, dtype, 9, seed=n)
    c = np.random.default_rng(1).standard_normal(len(rows))
    assert same(recurrence.dot(x, y, threads), reference.dot(x, y))
    assert same(recurrence.project(rows, x, threads), reference.project(rows, x))
    for k in range(len(rows) + 1):
        out, expected = np.empty_like(x), np.empty_like(x)
        got = recurrence.subtract(out, x, rows[:k], c[:k], y, threads)
        assert same(got, reference.subtract(expected, x, rows[:k], c[:k], y))
        assert same(out, expected)
        combined = recurrence.combine(rows[:k], c[:k], n, threads)
        assert combined.dtype == np.float64 and same(
            combined, reference.combine(rows[:k], c[:k], n)
        )
    recurrence.scale(out, x, 0.3, threads)
    reference.scale(expected, x, 0.3)
    assert same(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_may_be_any_of_the_inputs(isa, dtype):
    for alias in ("x", "row", "y"):
        results = []
        for twin in (recurrence, reference):
            x, y, *rows = vectors(9999, dtype, 8)
            out = {"x": x, "row": rows[2], "y": y}[alias]
            got = twin.subtract(out, x, rows, np.arange(6) / 7, y)
            results.append((got, out))
        assert same(results[0][0], results[1][0]) and same(results[0][1], results[1][1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_strange_values(isa, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    special = np.array([0, -0.0, tiny, -tiny, np.inf, 1, np.nan, 3e38], dtype)
    x, y = np.tile(special, 700), np.repeat(special, 700)
    with np.errstate(all="ignore"):
        assert same(recurrence.dot(x, y), reference.dot(x, y))
        for k in range(4):  # without inf and nan too
            finite = np.where(np.isfinite(x), x, dtype(-0.0))
            out, expected = np.empty_like(x), np.empty_like(x)
            for start in (x, finite):
                got = recurrence.subtract(out, start, [y, finite, start][:k], np.ones(k), start)
                want = reference.subtract(
                    expected, start, [y, finite, start][:k], np.ones(k), start
                )
                assert same(got, want) and same(out, expected)
            recurrence.scale(out, x, 1e-30)
            reference.scale(expected, x, 1e-30)
            assert same(out, expected)


def run(kind, product, start, steps, limit, threads=1):
    lanczos = kind(start, limit, threads) if kind is recurrence.Recurrence else kind(start, limit)
    for _ in range(steps):
        lanczos.advance(product(lanczos.vector))
    return lanczos


@spread(3, dtype=DTYPES, threads=[1, 3], limit=[0, 1, 7, 100])
def test_recurrence_equals_its_twin(isa, dtype, threads, limit):
    n = 9001
    rng = np.random.default_rng(3)
    d = np.sort(rng.uniform(0, 1, n)).astype(dtype)
    d[:2] = -0.5, -0.3
    d[-5:] = 10, 20, 30, 40, 100
    start = rng.standard_normal(n).astype(dtype)
    start = (start / np.linalg.norm(start)).astype(dtype)
    ours = run(recurrence.Recurrence, lambda v: d * v, start, 30, limit, threads)
    twin = run(reference.Recurrence, lambda v: d * v, start, 30, limit)
    assert same(ours.alpha, twin.alpha) and same(ours.beta, twin.beta)
    assert same(ours.vector, twin.vector)
    assert same(ours.noise_square, twin.noise_square) and ours.noise_count == twin.noise_count
    assert (ours.basis is None) == (twin.basis is None) == (limit < 100)
    if ours.basis is not None:
        assert all(same(a, b) for a, b in zip(ours.basis, twin.basis, strict=True))


def test_the_second_gram_schmidt_pass_happens_and_agrees():
    """A product that is far from symmetric leaves much to take away."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((300, 300))
    start = np.eye(300)[0]
    ours = run(recurrence.Recurrence, lambda v: a @ v, start, 20, 50)
    twin = run(reference.Recurrence, lambda v: a @ v, start, 20, 50)
    assert same(ours.alpha, twin.alpha) and same(ours.beta, twin.beta)
    basis = np.array(ours.basis)
    assert np.abs(basis @ basis.T - np.eye(21)).max() < 1e-14


def test_another_librarys_flush_to_zero_does_not_change_the_bits():
    """The caller's floating-point mode is put aside for the pass and then put back."""
    torch = pytest.importorskip("torch")
    x = np.full(5000, 1e-40, np.float32)
    out = np.empty_like(x)
    try:
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU has no such mode")
        got = recurrence.subtract(out, x, [], [], x)
        flushed = torch.tensor([1e-40], dtype=torch.float32) * 1
    finally:
        torch.set_flush_denormal(False)
    assert flushed.item() == 0, "the mode was not on: the test shows nothing"
    assert out[0] == np.float32(1e-40) and got > 0


FORKED = """
import os, signal
import numpy as np
from optkern import curvature
from optkern.curvature.recurrence import Recurrence
x = np.full(300_000, 300_000**-0.5)
run = Recurrence(x, 10, 2)
run.advance(x * 2)                       # two threads, before the fork
child = os.fork()
if not child:
    signal.alarm(20)                     # a hang ends here
    run.advance(run.vector * 2)
    curvature.lanczos(lambda v: 2 * v, 300_000, max_matvecs=3)
    os._exit(0)
status = os.waitpid(child, 0)[1]
assert status == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_hang():
    subprocess.run([sys.executable, "-P", "-c", FORKED], check=True, timeout=600)


ONE_THREAD = """
import os
import numpy as np
from optkern import curvature

def count():
    return len(os.listdir("/proc/self/task"))

d = np.linspace(1, 2, 100_000)
d[:3] = 0
before = count()
for low, x in ((0.0, 0.0), (-1.0, 0.0), (0.0, 1.0)):
    d[3] = low
    verdict = curvature.classify(
        np.full(d.size, x), lambda x: d * x, lambda v: d * v, num_threads=1, max_matvecs=20,
        loss=lambda x: float(x @ (d * x)) / 2,
    )
    print(verdict.kind, count() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_one_thread_is_enough(run_python):
    """Flat directions, a saddle and a slope: no part of a look takes threads on its own account."""
    said = run_python(ONE_THREAD, OPENBLAS_NUM_THREADS="1").stdout.split()
    assert said[1::2] == ["0"] * 3 and said[2::2] == ["saddle", "not_stationary"]


def test_bad_vectors_are_refused():
    x = np.zeros(10)
    with pytest.raises(ValueError, match="10 elements, got 9"):
        recurrence.dot(x, np.zeros(9))
    with pytest.raises(ValueError):
        recurrence.dot(x, np.zeros(10, np.float32))
    with pytest.raises(ValueError):
        recurrence.dot(np.zeros(20)[::2], x)
    with pytest.raises(ValueError):
        recurrence.subtract(x, x, [x, x], [1.0])
    with pytest.raises(ValueError, match="2 weights, got 1"):
        recurrence.combine([x, x], [1.0], 10)


def test_lengths_are_not_ints():
    """The engine's counts are as wide as a pointer: 2**31 elements are not an overflow."""
    assert ctypes.sizeof(ctypes.c_ssize_t) >= 8
    assert recurrence.blocks(2**40 + 1) == 2**40 // 4096 + 1
