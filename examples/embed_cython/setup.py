"""No header and no library of optkern's is needed: Cython reads its .pxd from site-packages."""

import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

if sys.platform == "win32":
    flags, link = ["/O2", "/openmp"], []
elif sys.platform == "darwin":  # Apple's clang has no OpenMP: one thread
    flags, link = ["-O3", "-ffp-contract=off"], []
else:  # without contraction the gradients too are the same bits on every machine
    flags, link = ["-O3", "-ffp-contract=off", "-fopenmp"], ["-fopenmp"]

setup(
    py_modules=[],
    ext_modules=cythonize(
        [Extension("factorise", ["factorise.pyx"], extra_compile_args=flags, extra_link_args=link)]
    ),
)
