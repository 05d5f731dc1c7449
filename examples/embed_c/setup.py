"""The header is all that is needed: the functions come from a capsule at run time."""

import sys

from setuptools import Extension, setup

import optkern

flags = ["/O2"] if sys.platform == "win32" else ["-O3", "-ffp-contract=off"]

setup(
    ext_modules=[
        Extension(
            "descend",
            ["descend.c"],
            include_dirs=[optkern.get_include()],
            extra_compile_args=flags,
        )
    ]
)
