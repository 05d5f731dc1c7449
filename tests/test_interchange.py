"""Other libraries' arrays as parameters and gradients, without a copy; and one vector for many."""

import array
import ctypes

import numpy as np
import pytest
from conftest import assert_same_bits, every_dtype, ordinary

import optkern
from optkern import curvature

CODES = {np.float32: "f", np.float64: "d"}


class Interface:
    """An object of which NumPy knows the address and nothing else."""

    def __init__(self, values, writable=True):
        self.values = values
        self.__array_interface__ = {
            **values.__array_interface__,
            "data": (values.ctypes.data, not writable),
        }


class DLPack:
    """An object that speaks DLPack and nothing else."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **kwargs):
        return self.values.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def exported(values):
    """One array's memory behind every protocol: the name of each, and the object."""
    return {
        "buffer": memoryview(values),
        "interface": Interface(values),
        "dlpack": DLPack(values),
    }


# Older versions take whatever comes through DLPack for read-only, and do not export what is.
writable_dlpack = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="writing through DLPack needs NumPy 2.1"
)
every_protocol = pytest.mark.parametrize(
    "protocol", ("buffer", "interface", pytest.param("dlpack", marks=writable_dlpack))
)


@every_dtype
@every_protocol
def test_parameters_are_updated_in_the_owners_memory(protocol, dtype):
    owned, plain = (ordinary(dtype, 12, 0).reshape(3, 4) for _ in range(2))
    opt = optkern.Adam({"W": exported(owned)[protocol]}, lr=0.1)
    same = optkern.Adam({"W": plain}, lr=0.1)
    for step in range(3):
        g = ordinary(dtype, 12, step + 1).reshape(3, 4)
        opt.step({"W": g})
        same.step({"W": g})
    assert_same_bits(owned, plain)
    assert np.shares_memory(opt.params[0], owned)


@every_dtype
@every_protocol
def test_gradients_are_read_where_they_are(protocol, dtype):
    p, q = ordinary(dtype, 6, 0), ordinary(dtype, 6, 0)
    g = ordinary(dtype, 6, 1)
    opt, same = optkern.SGD([p], momentum=0.9), optkern.SGD([q], momentum=0.9)
    theirs = exported(g)[protocol]
    for _ in range(2):
        g += 1
        assert opt.step([theirs]) and same.step([g])
    assert_same_bits(p, q)


@every_protocol
def test_a_single_array(protocol):
    p = np.ones(4, np.float32)
    opt = optkern.SGD(exported(p)[protocol], lr=1.0)
    opt.step(exported(np.full(4, 0.25, np.float32))[protocol])
    assert (p == 0.75).all()


@every_dtype
def test_standard_library(dtype):
    numbers = array.array(CODES[dtype], [1, 2, 3])
    ctype = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}[dtype]
    pointed = (ctype * 3)(1, 2, 3)
    opt = optkern.SGD([numbers, pointed], lr=1.0)
    opt.step([array.array(CODES[dtype], [1, 1, 1]), (ctype * 3)(0, 2, 4)])
    assert list(numbers) == [0, 1, 2] and list(pointed) == [1, 0, -1]


@every_protocol
def test_twins_take_them_too(protocol):
    for twin in (optkern.kernels.adagrad, optkern.reference.adagrad):
        p, g, s = np.ones(3), np.full(3, 2.0), np.zeros(3)
        twin(*(exported(x)[protocol] for x in (p, g, s)), lr=0.5, eps=0.0)
        assert (p == 0.5).all() and (s == 4).all()
        twin(*([exported(x)[protocol]] for x in (p, g, s)), lr=0.0)
        assert (s == 8).all()


@every_protocol
def test_rebind(protocol):
    first, second = np.ones(3), np.ones(3)
    opt = optkern.SGD([first], lr=1.0, momentum=0.5)
    opt.step([np.ones(3)])
    opt.rebind([exported(second)[protocol]])
    opt.step([np.ones(3)])
    assert (first == 0).all() and (second == -0.5).all()


def test_curvature_takes_them():
    x = array.array("d", [0.0, 0.0])
    verdict = curvature.classify(x, grad=lambda x: np.array([1.0, -2.0]) * x)
    assert verdict.kind == "saddle"
    assert np.abs(verdict.escape_direction) == pytest.approx([0, 1], abs=1e-6)


# --------------------------------------------------------------------------- refused


def read_only(values):
    values.flags.writeable = False
    return values


READ_ONLY = {
    "buffer": (lambda: memoryview(read_only(np.ones(3))), "ndarray"),
    "interface": (lambda: Interface(np.ones(3), writable=False), "Interface"),
    "bytes": (lambda: memoryview(bytes(24)).cast("d"), "bytes"),
    "dlpack": (lambda: DLPack(read_only(np.ones(3))), "through DLPack"),
}
every_read_only = pytest.mark.parametrize(
    "case", [*list(READ_ONLY)[:-1], pytest.param("dlpack", marks=writable_dlpack)]
)


@every_read_only
def test_read_only_parameters_are_refused_with_the_way_round(case):
    make, whose = READ_ONLY[case]
    with pytest.raises(ValueError, match=r"SGD: parameter 0 is read-only.*np\.array") as caught:
        optkern.SGD([make()])
    assert whose in str(caught.value)


@every_read_only
def test_read_only_gradients_are_taken(case):
    p = np.zeros(3)
    optkern.SGD([p], lr=1.0).step([READ_ONLY[case][0]()])
    assert (p == (0 if case == "bytes" else -1)).all()


class Elsewhere:
    """A tensor on a device of its own."""

    def __dlpack__(self, **kwargs):
        raise BufferError("it is on another device. Move it.\nMore lines.")

    def __dlpack_device__(self):
        return 1, 0


def test_memory_that_is_not_shared_is_refused_with_its_owners_reason():
    p = np.zeros(3)
    what = r"parameter 'W' \(Elsewhere\) does not share its memory: it is on another device"
    with pytest.raises(TypeError, match=f"SGD: {what}. Move it$"):
        optkern.SGD({"W": Elsewhere()})
    opt = optkern.SGD({"W": p})
    with pytest.raises(TypeError, match=f"SGD: gradient of {what}"):
        opt.step({"W": Elsewhere()})
    with pytest.raises(TypeError, match=r"SGD: params \(Elsewhere\) does not share"):
        optkern.SGD(Elsewhere())
    opt.step({"W": np.ones(3)})
    assert opt.steps == 1 and (p < 0).all()


@pytest.mark.parametrize(
    "value", (b"abcdabcd", bytearray(8), memoryview(np.ones(2, np.int32)), array.array("i", [1]))
)
def test_other_dtypes_are_refused(value):
    with pytest.raises(TypeError, match=r"parameter 0 must be float16, .* float64, got"):
        optkern.SGD([value])
    with pytest.raises(TypeError, match="real floating point, got"):
        optkern.SGD([np.ones(2)]).step([value])


def test_overlap_is_seen_across_protocols():
    p = np.ones(4)
    with pytest.raises(ValueError, match="parameter 0 and parameter 1 overlap"):
        optkern.SGD([p, memoryview(p)])
    with pytest.raises(ValueError, match="gradient of parameter 0 overlaps"):
        optkern.SGD([p]).step([DLPack(p)])
    assert (p == 1).all()


# --------------------------------------------------------------------------- torch and JAX


@writable_dlpack
def test_torch_tensors_are_trained_in_place():
    torch = pytest.importorskip("torch", reason="needs torch: make test EXTRAS=peers")
    tensor, p = torch.ones(3, 2), np.ones((3, 2), np.float32)
    opt, same = optkern.Adam([tensor.T], lr=0.1), optkern.Adam([p.T], lr=0.1)
    opt.step([torch.full((2, 3), 0.5)])
    same.step([np.full((2, 3), 0.5, np.float32)])
    assert_same_bits(tensor.numpy(), p)
    with pytest.raises(TypeError, match=r"parameter 0 \(Parameter\).*requires? grad.*detach"):
        optkern.SGD([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(TypeError, match=r"parameter 0 \(Tensor\) does not share its memory"):
        optkern.SGD([torch.ones(2, device="meta")])


def test_jax_arrays_are_gradients_and_not_parameters():
    jax = pytest.importorskip("jax", reason="needs JAX, which no extra installs")
    with pytest.raises(ValueError, match=r"parameter 0 is read-only memory of ArrayImpl.*np.array"):
        optkern.SGD([jax.numpy.ones(3)])
    p = np.array(jax.numpy.ones(3))  # the way round: JAX's functions take NumPy's arrays
    opt = optkern.SGD([p], lr=0.25)
    opt.step([jax.grad(lambda p: (p**2).sum())(p)])
    assert (p == 0.5).all()


# --------------------------------------------------------------------------- flatten


def test_flatten_keeps_the_structure_and_shares_the_memory():
    W, b, s = ordinary(np.float64, 6, 0).reshape(2, 3), np.arange(3.0), np.array(7.0)
    for params in (
        W,
        [W, b],
        (W, b, s),
        {"W": W, "b": b},
        [{"params": [W], "lr": 0.5}, {"params": {"b": b, "s": s}}],
    ):
        vector, views = optkern.flatten(params)
        assert type(views) is (type(params) if params is not W else np.ndarray)
        plain, shared = optkern.SGD(params), optkern.SGD(views)
        assert dict(plain.param_groups[0]) == dict(shared.param_groups[0])
        assert plain.state.keys() == shared.state.keys()
        assert_same_bits(shared.params, plain.params)
        assert_same_bits(vector, np.concatenate([a.ravel() for a in plain.params]))
        vector += 1
        assert_same_bits(shared.params, [a + 1 for a in plain.params])


def test_flatten_trains_the_views():
    params = {"W": ordinary(np.float32, 12, 0).reshape(4, 3).T, "b": ordinary(np.float32, 3, 1)}
    grads = {"W": ordinary(np.float32, 12, 2).reshape(3, 4), "b": ordinary(np.float32, 3, 3)}
    vector, views = optkern.flatten(params)
    optkern.Adam(vector).step(optkern.flatten(grads).vector)
    optkern.Adam(params).step(grads)
    assert_same_bits([views["W"], views["b"]], [params["W"], params["b"]])


def test_flatten_of_both_dtypes_is_double():
    vector, views = optkern.flatten([np.ones(2, np.float32), np.zeros(1)])
    assert vector.dtype == views[0].dtype == np.float64
    assert optkern.flatten([np.ones(2, np.float32)]).vector.dtype == np.float32


def test_flatten_does_not_touch_the_originals():
    W = np.ones(3)
    W.flags.writeable = False
    vector, _ = optkern.flatten([W])
    vector[...] = 0
    assert (W == 1).all()


def test_flatten_of_an_empty_array():
    vector, (empty, one) = optkern.flatten([np.ones((0, 3)), np.ones(1)])
    assert vector.shape == (1,) and empty.shape == (0, 3) and one.shape == (1,)


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ([], ValueError, "flatten: params is empty"),
        (3.0, TypeError, "flatten: params must be an array"),
        ([np.ones(2), np.ones(2, int)], TypeError, "flatten: parameter 1 must be float32"),
        ({"W": [1.0]}, TypeError, "flatten: parameter 'W' must be a NumPy array"),
        ([[1.0, 2.0]], TypeError, "flatten: parameter 0 must be a NumPy array"),
    ],
)
def test_flatten_refuses(params, error, words):
    with pytest.raises(error, match=words):
        optkern.flatten(params)
