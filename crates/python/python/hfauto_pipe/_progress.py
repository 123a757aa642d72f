"""Progress of a call: a bar of tqdm if it is installed, else lines on stderr."""

import sys
import time

# Shorter calls show nothing, unless progress is asked for.
_QUIET_SECONDS = 1.0
_SECONDS_BETWEEN_LINES = 10.0


def _is_watched() -> bool:
    """Whether somebody sees the progress: in a terminal or a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None and hasattr(shell, "kernel"):
        return True
    return sys.stderr is not None and sys.stderr.isatty()


class Meter:
    """Shows the rows of a call that are done."""

    def __init__(self, title: str, always: bool):
        self._title = title
        self._started = time.monotonic()
        self._quiet_until = self._started + (0.0 if always else _QUIET_SECONDS)
        self._next_line = self._quiet_until
        self._bar = None
        self._last = None
        try:
            from tqdm.auto import tqdm
        except ImportError:
            tqdm = None
        self._tqdm = tqdm

    def update(self, rows: int, total: "int | None") -> None:
        """Shows that `rows` of `total` are done."""
        now = time.monotonic()
        self._last = (rows, total)
        if now < self._quiet_until:
            return
        if self._tqdm is not None:
            if self._bar is None:
                self._bar = self._tqdm(desc=self._title, unit=" rows", total=total)
            self._bar.total = total
            self._bar.n = rows
            self._bar.refresh()
        elif now >= self._next_line:
            self._next_line = now + _SECONDS_BETWEEN_LINES
            self._line()

    def close(self) -> None:
        """Ends the bar, or shows the last state as a line."""
        if self._bar is not None:
            self._bar.close()
        elif self._tqdm is None and self._last is not None and time.monotonic() >= self._quiet_until:
            self._line()

    def _line(self) -> None:
        rows, total = self._last
        of = "" if total is None else f" of {total}"
        rate = rows / max(time.monotonic() - self._started, 1e-9)
        print(f"{self._title}: {rows}{of} rows  {rate:.0f} rows/s", file=sys.stderr, flush=True)


class _Nothing:
    def update(self, rows, total):
        pass

    def close(self):
        pass


def meter(title: str, progress: "bool | None"):
    """The meter of a call. `progress` is True to show it, False to hide it, None to show it where somebody sees it."""
    if progress or (progress is None and _is_watched()):
        return Meter(title, always=bool(progress))
    return _Nothing()
