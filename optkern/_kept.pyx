# cython: language_level=3
"""What outlives `sys.modules`: the modules of the process's first import, by name (`_once.py`)."""

modules = {}
