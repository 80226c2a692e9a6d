"""What is said reaches the user: by logging where it is set up, on stderr where it is not, and once a run."""

import subprocess
import sys

import pytest
from lightning.pytorch.utilities import rank_zero_only

from tlkit.notes import say


def test_it_is_logged_where_logging_is_set_up(caplog):
    with caplog.at_level("INFO"):
        say("3 rows are left out")
    assert [(record.name, record.message) for record in caplog.records] == [("tlkit", "3 rows are left out")]


@pytest.mark.parametrize("before", ["", "from tlkit.cli.shell import quiet; quiet(); "])
def test_it_is_printed_otherwise_also_by_the_command_that_silences_lightning(before):
    code = f"{before}from tlkit.notes import say; say('3 rows are left out')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "tlkit: 3 rows are left out"


def test_other_ranks_are_silent(caplog, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with caplog.at_level("INFO"):
        say("3 rows are left out")
    assert not caplog.records
