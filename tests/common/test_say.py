"""Whatever becomes of the terminal: `say` never raises, and a run goes on."""

import io
import sys

import pytest

from common.say import say, say_aside


class Gone(io.TextIOBase):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(("speak", "stream"), [(say, "stdout"), (say_aside, "stderr")])
def test_a_pipe_that_is_gone_is_left_behind(monkeypatch, speak, stream):
    monkeypatch.setattr(sys, stream, Gone())
    for _ in range(2):
        speak("a line")
    assert not isinstance(getattr(sys, stream), Gone)


def test_a_terminal_of_few_letters_gets_what_it_can_show(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    say("19 ± 2, Gauß")
    assert written.getvalue() == b"19 ? 2, Gau?\n"
