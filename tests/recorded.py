"""A training run of each rule, and the sha256 of all that it ends with: `recorded.json`.

The runs ask of a machine what IEEE 754 and C promise everywhere: sums, products, quotients, roots,
conversions, powers that are numbers. So they end alike on any instruction set, processor, compiler
and number of threads. Powers that are not (0.999**3) are the C library's; rules that multiply
matrices have BLAS' bits: both are left out, and of SOAP its vectors are here.

`python tests/recorded.py` writes the record anew: a rule that steps otherwise than it did is to be
said in the CHANGELOG. `python tests/recorded.py check` compares, and needs NumPy alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import warnings
from pathlib import Path

import numpy as np

import optkern
from optkern.kernels import codecs, runtime
from optkern.rules import MATRIX_RULES, RULES, refuse_option

RECORD = Path(__file__).with_name("recorded.json")
THREADS = (1, 2, 5)
# Two chunks and a bit, that several threads have something to do; a column, a row, one number.
SHAPES = {"W": (83, 411), "E": (7, 5), "column": (9, 1), "b": (300,), "none": (0,), "s": ()}
STEPS = 7

# What steps raise to a power, or take the power of, so that the power is a number of 53 bits.
EXACT = {
    "betas": (0.875, 0.9375, 0.75),
    "momentum_decay": 0.0,
    "clip_exponent": 1.0,
    "beta2_decay": -1.0,
    "lr": 2.0**-6,
}
EXACT_OF = {"asgd": {"alpha": 1.0}}
BUSY = {
    "momentum": 0.5, "amsgrad": True, "centered": True, "weight_decay": 0.125, "maximize": True,
    "lr_decay": 0.25,
}  # fmt: skip
AROUND = {
    "clip_norm": 60.0, "clip_value": 0.75, "grad_scale": 2.0, "accumulate": 2, "cautious": True,
    "lookahead": (2, 0.5), "ema_decay": 0.875, "project": (-1.5, 1.75), "zero_grad": True,
}  # fmt: skip
WAYS = ("float32", "float64", "busy", "float16", "int8 state", "bfloat16 state")


def recorded_rules():
    """The rules whose bits no matrix product decides, and SOAP for its vectors."""
    return [rule for rule in (*RULES, *MATRIX_RULES) if rule.axes is None]


def numbers(size, seed):
    """Numbers in [-1, 1) of 24 bits, from integers alone: the same on every machine."""
    x = np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 7919)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0


def options_of(rule, way):
    """What a rule is constructed with; None where it cannot be."""
    own = rule.hyperparameters
    chosen = {name: value for name, value in EXACT.items() if name in own}
    chosen |= EXACT_OF.get(rule.name, {})
    if "betas" in own:
        chosen["betas"] = EXACT["betas"][: len(own["betas"])]
    if rule.name == "sgd":
        chosen["momentum"] = 0.5
    around = {}
    if way == "busy":
        for name, value in BUSY.items():
            tried = {**own, **chosen, name: value}
            if name in own and rule.conflict(tried) is None:
                chosen[name] = value
        for name, value in AROUND.items():
            try:
                refuse_option(rule.name, name, rule)
            except ValueError:
                continue
            around[name] = value
    if way == "float16" and rule.average is not None:
        return None
    if way.endswith("state"):
        if "" in rule.not_compact or any(chosen.get(name) for name in rule.not_compact):
            return None
        around = {"state_dtype": way.split()[0], "seed": 5}
    return chosen | around


def shapes_of(rule):
    """Vectors alone, where matrices would be multiplied."""
    return {k: s for k, s in SHAPES.items() if rule.matrices is None or len(s) < 2}


def trained(rule, way, threads):
    """The sha256 of parameters and state after a few steps down a quartic's noisy gradient."""
    options = options_of(rule, way)
    if options is None:
        return None
    dtype = np.dtype(way if way.startswith("float") else np.float32)
    shapes = shapes_of(rule)
    params = {
        name: numbers(int(np.prod(shape)), k).reshape(shape).astype(dtype)
        for k, (name, shape) in enumerate(shapes.items())
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that do nothing here
        opt = getattr(optkern, rule.class_name)(params, num_threads=threads, **options)
        for step in range(1, STEPS + 1):
            opt.step({name: gradient(p, step, k) for k, (name, p) in enumerate(params.items())})
    return digest(params, opt.state_dict()["state"])


def gradient(p, step, k):
    """Of (p^2 - 1)^2 / 4 with noise of changing size; one is None at times."""
    if k == 1 and step % 3 == 0:
        return None
    wide = np.asarray(codecs.widened(p))
    noise = numbers(p.size, 100 * step + k).reshape(p.shape).astype(wide.dtype)
    g = wide * (wide * wide - wide.dtype.type(1)) + noise * wide.dtype.type(2.0 ** -(step % 4))
    return np.asarray(g).astype(p.dtype)


def digest(params, state):
    """Hash arrays, in C order and little-endian, and numbers, each under its name."""
    found = hashlib.sha256()
    for name, entry in [("params", params), *state.items()]:
        for key in sorted(entry):
            value = entry[key]
            found.update(f"{name}/{key}:".encode())
            if isinstance(value, np.ndarray):
                value = value.astype(value.dtype.newbyteorder("<")).tobytes()
            else:
                value = repr(value).encode()
            found.update(value)
    return found.hexdigest()


def run_of(rule, threads=1):
    """The record of a rule: a sha256 for each way to store and step it."""
    found = {way: trained(rule, way, threads) for way in WAYS}
    return {way: sha for way, sha in found.items() if sha is not None}


def main():
    if sys.argv[1:] != ["check"]:
        runs = {rule.name: run_of(rule) for rule in recorded_rules()}
        RECORD.write_text(json.dumps(runs, indent=1) + "\n")
        return
    record, compared, wrong = json.loads(RECORD.read_text()), 0, 0
    for isa, threads in itertools.product(runtime.AVAILABLE_ISAS, THREADS):
        runtime.use_isa(isa)
        for rule in recorded_rules():
            for way, sha in run_of(rule, threads).items():
                compared += 1
                if record.get(rule.name, {}).get(way) != sha:
                    wrong += 1
                    print(f"{rule.name}, {way}, {isa}, {threads} threads: {sha}")
    isas = ", ".join(runtime.AVAILABLE_ISAS)
    print(f"{compared} runs on {isas}, {THREADS} threads: {wrong} differ from the record")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    optkern.set_num_threads(max(THREADS))
    main()
