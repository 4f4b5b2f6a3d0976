"""Hostile replies do not steer the terminal."""

import os
import pty
import re
import termios
from collections.abc import Callable

import pytest
from harness import PATIENCE, Server, Site, environment, running
from replies import HOSTILE

PAINTING = re.compile(rb"\x1b\[(?:\d*(?:;\d+)*m|\d*[AKBCDG]|\?25[hl])|\r")
"""What a live view sends: colours, the cursor up, a line erased."""


def shown(site: Site, term: str) -> tuple[int, bytes]:
    """Run a pipeline on a terminal; return its exit code and all that the terminal received."""
    import subprocess

    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # bytes as they are written
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    process = subprocess.Popen(
        site.command(), stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM=term)
    )
    os.close(theirs)
    received = bytearray()
    with running(process):
        try:
            while data := os.read(ours, 1 << 16):
                received += data
        except OSError:  # the other end is closed
            pass
        finally:
            os.close(ours)
        return process.wait(PATIENCE), bytes(received)


@pytest.mark.parametrize("term", ["dumb", "xterm-256color"])
def test_hostile_replies_do_not_steer_the_terminal(
    term: str, site: Callable[..., Site], server: Server
) -> None:
    server.reset(contents=["hostile"], content_rate=0.8, latency=0.001)
    code, received = shown(site("hostile"), term)
    assert code == 0, received
    assert b"dead" in received
    assert b"rejected" in received
    said = received if term == "dumb" else PAINTING.sub(b"", received)
    assert {byte for byte in said if byte < 0x20 or byte == 0x7F} <= {*b"\n\t"}
    text = said.decode("utf-8")  # no lone surrogate either
    steering = {c for line in HOSTILE for c in line if not c.isprintable()} - {*"\n\t"}
    assert not steering & {*text}
