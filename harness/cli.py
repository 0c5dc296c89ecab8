"""The command line: `harness.commands.COMMANDS`.

A person reads stderr; stdout holds the leaderboard and, last, one line of JSON.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from harness import provenance, registry
from harness.commands import COMMANDS, INTERRUPTED
from harness.errors import UserError
from harness.visible import put


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 where a generation failed or is not the target's, a drafter fell below
        ``--fail-below`` or nothing can be run here; 2 for bad input; 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except UserError as error:
        put(f"error: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        put("interrupted", sys.stderr)
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            place = f": {error.filename}" if error.filename else ""
            put(f"error: {error.strerror or error}{place}.", sys.stderr)
            return 2
        # What is still buffered for stdout must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # whoever read stdout has seen enough
            return 1
        put(f"error: output could not be written ({error.strerror}); make room.", sys.stderr)
        return 2
    except SystemExit as stop:  # argument parsing ends this way, after --help as after an error
        if isinstance(stop.code, str):
            put(f"error: {stop.code}", sys.stderr)
        return stop.code if isinstance(stop.code, int) else 2


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        put(_usage(), sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-V", "--version"):
        put(f"harness {provenance.project_version()}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; {registry.near_misses(name, COMMANDS)}")
    return COMMANDS[name](rest)


def _usage() -> str:
    lines = [f"  {name:<8}{command.__doc__}" for name, command in COMMANDS.items()]
    usage = "usage: python -m harness COMMAND [--help] | --version"
    return "\n".join([usage, "", *lines])
