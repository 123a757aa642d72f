"""The command `hfauto-pipe`, also as `python -m hfauto_pipe`."""

import sys

from . import _native


def main() -> int:
    """Runs the program with the arguments of this process, and returns its exit code."""
    # A scheduled run is a child process, which starts like this.
    again = [sys.executable, "-m", "hfauto_pipe"]
    return _native.main(["hfauto-pipe", *sys.argv[1:]], again)


if __name__ == "__main__":
    sys.exit(main())
