import os
import subprocess
import sys
import time

import pytest

from tlkit.cli import help as help_text
from tlkit.cli import main as command
from tlkit.errors import DataError

HEAVY = ("torch", "lightning", "numpy", "jsonargparse", "rich")


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["fti"], ["fit", "--config", "no/such"], ["recipes"]])
def test_quick_answers_import_nothing_heavy(words):
    code = (
        "import sys; from tlkit.cli.main import main; status = main(sys.argv[1:]); "
        f"print(status, [name for name in {HEAVY} if name in sys.modules])"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    took = time.perf_counter() - began
    status = 2 if words in (["fti"], ["fit", "--config", "no/such"]) else 0
    assert done.stdout.splitlines()[-1] == f"{status} []"
    assert took < 1


def test_overview_names_every_command(capsys):
    assert command.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in command._COMMANDS)
    assert set(help_text.COMMANDS) == set(command._COMMANDS)


@pytest.mark.parametrize("name", sorted(help_text.COMMANDS))
def test_every_command_has_help(name, capsys):
    assert command.main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: tlkit {name}")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["recipes"], ["--help"], ["--version"]])
def test_a_reader_that_went_away_is_no_error(words, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tlkit.cli", *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["recipes"], ["--version"]])
def test_output_that_cannot_be_written_is_told_in_words(words):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tlkit.cli", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "tlkit: error: standard output cannot be written: No space left on device\n"


def test_other_errors_of_the_system_are_raised(monkeypatch):
    def broken(rest):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(command._COMMANDS, "list", broken)
    with pytest.raises(BrokenPipeError):
        command.main(["list"])


def test_misspelt_command(capsys):
    assert command.main(["predit", "--config", "x"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tlkit: error: unknown command 'predit': did you mean 'predict'?")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["copy", "a"], "usage: tlkit copy RECIPE FILE"),
        (["list"], "usage: tlkit list backbones|losses|tasks|data|finetuning"),
        (["recipes", "a", "b"], "got 2 words"),
        (["recipes", "--all"], "takes no option '--all'"),
        (["recipes", "zebra"], "no recipe matches 'zebra'"),
        (["fit"], "needs --config RECIPE"),
        (["fit", "mine.yaml"], "Did you mean '--config mine.yaml'?"),
    ],
)
def test_usage_errors(words, message, capsys):
    assert command.main(words) == 2
    assert message in capsys.readouterr().err


def test_version(capsys):
    from tlkit import __version__

    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tlkit {__version__}\n"


def test_error_of_a_loader_worker_is_shown_without_its_traceback():
    raised = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\n    raise DataError(...)\ntlkit.errors.DataError: image a.png is empty\n'
    )
    assert command._own_words(raised) == "image a.png is empty"
    assert command._own_words(DataError("plain")) == "plain"


def test_interrupt_outside_training(monkeypatch, capsys):
    def interrupted(rest):
        raise KeyboardInterrupt

    monkeypatch.setitem(command._COMMANDS, "list", interrupted)
    assert command.main(["list"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_interrupt_that_lightning_made_an_exit_of(monkeypatch, capsys):
    def interrupted(rest):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setitem(command._COMMANDS, "list", interrupted)
    assert command.main(["list"]) == 130
    assert capsys.readouterr().err == "tlkit: stopped\n"


def test_interrupt_of_an_import_ends_the_process():
    code = (
        "import os, signal; from tlkit.cli.main import _imports\n"
        "with _imports():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt: print('lost')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "tlkit: stopped\n")
