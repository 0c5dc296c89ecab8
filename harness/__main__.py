"""``python -m harness``."""

import os
import sys


def _set_current_directory_behind() -> None:
    """Let no file where the command is given stand for a module of this project.

    ``-m`` puts the current directory first on the path, and with it anybody's ``tasks.py``. Behind
    everything else it still serves what a plug-in imports from beside it.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was removed meanwhile
        return
    if here == os.path.dirname(os.path.dirname(os.path.realpath(__file__))):
        return
    others = [place for place in sys.path if os.path.realpath(place) != here]
    if len(others) < len(sys.path):
        sys.path[:] = [*others, here]


_set_current_directory_behind()

from harness.cli import main  # noqa: E402 - after the path

sys.exit(main())
