"""The examples run as they stand, and say what they show."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each needs, and what it prints at the least.
EXAMPLES = {
    "autograd_mlp": ("autograd", ("iteration 500: loss", "after training: loss", "lambda_min")),
    "course_codes": (None, ("cs231n, sgd_momentum: ", "Deep Learning from Scratch, Adam: ")),
    "embedding_rows": (None, ("before: test loss 1.0", "epoch 4: training loss 0.05")),
    "evolution_strategies": (None, ("generation 300: loss 0.0",)),
    "interchange": (None, ("array.array: [0.9, 1.9, 3.1]", "mmap: -0.5 -0.5", "is read-only")),
    "sklearn_mlp": ("sklearn", ("test accuracy", "with Lion", "lambda_min")),
    "torch_cpu": ("torch", ("weights at most", "accuracy, averaged: 0.9", "saddle: lambda_min")),
    "thinc_tagger": ("thinc", ("optkern's Adam: test accuracy", "AdamW by name", "lambda_m")),
}


LONG = ("embedding_rows", "sklearn_mlp", "thinc_tagger", "torch_cpu")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in EXAMPLES]
)
def test_example(name, run_python):
    extra, words = EXAMPLES[name]
    if extra:
        pytest.importorskip(extra, reason=f"needs {extra}: make test EXTRAS={extra}")
    result = run_python((ROOT / "examples" / f"{name}.py").read_text(), timeout=600)
    assert result.returncode == 0, result.stderr
    missing = [word for word in words if word not in result.stdout]
    assert not missing, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ("bench_autograd", "bench_shims", "bench_sklearn", "bench_thinc", "bench_torch")
)
def test_host_benchmark_runs(name, run_python):
    extra = name.removeprefix("bench_").replace("shims", "threadpoolctl")
    pytest.importorskip(extra, reason=f"needs {extra}: make test EXTRAS={extra}")
    script = ROOT / "bench" / f"{name}.py"
    result = run_python(
        f"import runpy, sys; sys.argv[1:] = ['--quick']; runpy.run_path({str(script)!r}, "
        "run_name='__main__')",
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert "ratio" in result.stdout and "float" in result.stdout
