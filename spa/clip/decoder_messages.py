"""What FFmpeg complains of and what fails while a file is read, counted."""

import collections
import logging
import re
import threading

import av

KINDS_SHOWN = 3
KINDS_KEPT = 1000  # of a hostile file, more are of no use

LOGGER = logging.getLogger("libav")  # which PyAV's messages go to
_lock, _listening = threading.Lock(), []


class Messages(logging.Handler):
    """A context in which errors that FFmpeg logs are counted, of all threads.

    They go no further, but to other handlers of the logger "libav". Where several files
    are open at once, each hears those of all. Before a decoder is freed it must be
    idle: its threads wait for Python's lock when they have something to say.
    """

    def __init__(self):
        super().__init__(logging.ERROR)
        self.heard = collections.Counter()

    def __enter__(self):
        with _lock:
            if not _listening:
                av.logging.set_skip_repeated(False)
                av.logging.set_level(av.logging.ERROR)
                LOGGER.propagate = False
            _listening.append(self)
            LOGGER.addHandler(self)
        return self

    def __exit__(self, *_):
        with _lock:
            LOGGER.removeHandler(self)
            _listening.remove(self)
            if not _listening:  # back to PyAV's defaults
                av.logging.set_level(None)
                av.logging.set_skip_repeated(True)
                LOGGER.propagate = True

    def emit(self, record):
        text = " ".join(record.getMessage().split())
        if text in self.heard or len(self.heard) < KINDS_KEPT:
            self.heard[text] += 1

    def taken(self) -> collections.Counter:
        """Returns how often what was said since the last call, and forgets it."""
        heard, self.heard = self.heard, collections.Counter()
        return heard


class Complaints:
    """What went wrong up to the last frame that was asked for. `in_turn`: messages come
    with the packet they are about, as they do of a decoder with one thread."""

    def __init__(self, messages: Messages, in_turn: bool):
        self.messages, self.in_turn = messages, in_turn
        messages.taken()  # of the time before
        self.later, self.heard = [], collections.Counter()
        self.failed = self.damaged = 0
        self.ends_damaged, self.broken_off = False, ""

    def note_packet(self, seconds: float | None, failed: bool) -> None:
        """Takes what was said of a packet that is shown at this time, not before."""
        heard = self.messages.taken()
        if failed or heard:
            self.later.append((seconds, failed, heard))
        self.ends_damaged |= failed

    def note_frame(self, seconds: float | None, damaged: bool) -> None:
        """Counts what was said up to this time."""
        self.damaged += damaged
        self.ends_damaged = damaged
        self._settle(seconds if self.in_turn else None)

    def note_end(self) -> None:
        """Counts all the rest."""
        self.note_packet(None, False)
        self._settle(None)

    def _settle(self, until):
        later, self.later = self.later, []
        for seconds, failed, heard in later:
            if None not in (until, seconds) and seconds > until:
                self.later.append((seconds, failed, heard))
            else:
                self.failed += failed
                self.heard += heard

    def warnings(self) -> tuple[str, ...]:
        """Returns them for the user."""
        warnings = []
        if self.broken_off:
            warnings.append(f"it could not be read to its end: {self.broken_off}")
        if self.failed:
            warnings.append(f"{self.failed} packet(s) could not be decoded")
        if self.damaged:
            said = "frame(s) are damaged, and what was missing made up"
            warnings.append(f"{self.damaged} {said}")
        if self.ends_damaged and not self.later:
            warnings.append("its end is damaged: the file may be cut short")
        return *warnings, *_summary(self.heard)


def _summary(heard: collections.Counter) -> tuple[str, ...]:
    """Returns one line about the most frequent messages, none if there are none; those
    that differ in numbers alone are of one kind."""
    kinds, examples = collections.Counter(), {}
    for text, count in heard.items():
        kind = re.sub(r"0x[0-9a-f]+|\d+", "#", text)
        examples.setdefault(kind, text)
        kinds[kind] += count
    if not kinds:
        return ()
    said = "; ".join(
        examples[kind] + (f" ({count} times)" if count > 1 else "")
        for kind, count in kinds.most_common(KINDS_SHOWN)
    )
    others = len(kinds) - KINDS_SHOWN
    more = f"; and {others} other kinds" if others > 0 else ""
    return (f"the decoder said: {said}{more}",)
