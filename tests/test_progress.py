import io
import logging
import sys

import pytest

import service.progress
from service.progress import show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO), show_progress("lines", 4, done=1) as progress:
        progress.update(3)
    assert "100%" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert not caplog.records


def test_elsewhere_it_is_logged_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service.progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO), show_progress("lines", 40_000, done=10_000) as progress:
        for _ in range(3):
            progress.update(10_000)
    shown = [record.getMessage().split(" lines, ")[0] for record in caplog.records]
    assert shown[:4] == ["10000 of 40000", "20000 of 40000", "30000 of 40000", "40000 of 40000"]


def test_a_quick_command_says_where_it_began_and_ended(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), show_progress("memories", None) as progress:
        for _ in range(1_000):
            progress.update(7)
    shown = [record.getMessage().split(",")[0] for record in caplog.records]
    assert shown == ["0 memories", "7000 memories"]
