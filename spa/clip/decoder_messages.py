"""What FFmpeg complains of while files are open, counted."""

import collections
import logging
import re
import threading

import av

KINDS_SHOWN = 3
KINDS_KEPT = 100  # of a hostile file, more are of no use

_lock, _listening = threading.Lock(), []


class Messages(logging.Handler):
    """A context in which errors that FFmpeg logs are counted, of all threads.

    Other handlers of the logger "libav" get them as well. Where several files are open
    at once, each hears those of all. Before a decoder is freed it must be idle: its
    threads wait for Python's lock when they have something to say.
    """

    def __init__(self):
        super().__init__(logging.ERROR)
        self.counts, self.examples = collections.Counter(), {}

    def __enter__(self):
        with _lock:
            if not _listening:
                av.logging.set_skip_repeated(False)
                av.logging.set_level(av.logging.ERROR)
            _listening.append(self)
            logging.getLogger("libav").addHandler(self)
        return self

    def __exit__(self, *_):
        with _lock:
            logging.getLogger("libav").removeHandler(self)
            _listening.remove(self)
            if not _listening:  # back to PyAV's defaults
                av.logging.set_level(None)
                av.logging.set_skip_repeated(True)

    def emit(self, record):
        text = " ".join(record.getMessage().split())
        kind = re.sub(r"0x[0-9a-f]+|\d+", "#", text)
        if kind in self.examples or len(self.examples) < KINDS_KEPT:
            self.examples.setdefault(kind, text)
            self.counts[kind] += 1

    def clear(self) -> None:
        """Forgets what was said."""
        self.counts.clear()
        self.examples.clear()

    def summary(self) -> tuple[str, ...]:
        """Returns one line about the most frequent messages, none if there are none."""
        if not self.counts:
            return ()
        said = "; ".join(
            self.examples[kind] + (f" ({count} times)" if count > 1 else "")
            for kind, count in self.counts.most_common(KINDS_SHOWN)
        )
        others = len(self.counts) - KINDS_SHOWN
        more = f"; and {others} other kinds" if others > 0 else ""
        return (f"the decoder said: {said}{more}",)
