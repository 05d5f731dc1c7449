"""The command line: optkern demo | bench | selfcheck | info."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ._versions import __version__, show_versions
from .bench.options import Parser, UsageError
from .demo.command import run_demo
from .demo.errors import DemoError
from .demo.options import add_options
from .kernels.names import hint

_COMMANDS = ("demo", "bench", "selfcheck", "info")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; default ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit code: 0; 1 where the demo or the selfcheck found different bits; 2 on bad options
        or files; 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        # The benchmarks parse their own options.
        code = run_bench(argv[1:]) if argv[:1] == ["bench"] else _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader had enough: `optkern bench | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        return _fail(str(error), 2)
    except DemoError as error:
        return _fail(f"optkern demo: error: {error}", 2)
    except MemoryError as error:
        return _fail(f"optkern: not enough memory: {error}", 2)
    except KeyboardInterrupt as interrupt:
        return _fail("\n".join(["optkern: interrupted", *map(str, interrupt.args)]), 130)


def run_bench(argv: list[str]) -> int:
    """Run `optkern bench`."""
    from .bench.cli import main

    return main(argv)


def _run(argv: list[str]) -> int:
    parser = _parser()
    if argv and not argv[0].startswith("-") and argv[0] not in _COMMANDS:
        parser.error(f"no command {argv[0]!r}; {hint(argv[0], _COMMANDS)}")
    args = parser.parse_args(argv)
    args.argv = argv
    if args.command is None:
        parser.print_help()
        return 2
    if args.command == "info":
        show_versions()
        return 0
    if args.command == "selfcheck":
        from .bench.selfcheck import run_selfcheck

        return run_selfcheck()
    return run_demo(args)


def _parser() -> Parser:
    parser = Parser("Optimizer steps for NumPy on CPUs, fused in one pass.", "optkern")
    parser.add_argument("--version", action="version", version=f"optkern {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo_help = "a NumPy network learns real data with every rule"
    add_options(commands.add_parser("demo", help=demo_help, description=demo_help))
    commands.add_parser("bench", help="measure the rules against NumPy, as a table")
    check_help = "does this installation compute what it says? exit code 1 where it does not"
    commands.add_parser("selfcheck", help=check_help, description=check_help)
    info_help = "versions, instruction set and threads"
    commands.add_parser("info", help=info_help, description=info_help)
    return parser


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
