"""Pipeline files, the command, and their errors."""

import csv
import subprocess
import sys
import time

import pytest

import hfauto_pipe


@pytest.fixture
def pipeline(repository):
    return repository / "pipelines/token-count.yaml"


def program(*arguments, cwd=None):
    command = [sys.executable, "-m", "hfauto_pipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_a_run_returns_its_report(pipeline, tmp_path):
    out = tmp_path / "out.csv"
    report = hfauto_pipe.run(pipeline, set={"sink.path": str(out)}, limit=30)
    assert report["rows_written"] == 30 and report["pipeline"] == "token-count"
    assert report["steps"][0]["counts"]["rows"] == 30
    with out.open(newline="") as file:
        assert len(list(csv.reader(file))) == 31

    with pytest.raises(hfauto_pipe.SinkError) as error:
        hfauto_pipe.run(str(pipeline), set={"sink.path": str(out)}, limit=30)
    assert isinstance(error.value, hfauto_pipe.Error)
    assert error.value.kind == "sink" and error.value.exit_code == 73
    ran = program("run", pipeline, "--set", f"sink.path={out}", "--limit", "30")
    assert ran.returncode == 73
    assert ran.stderr == f"error: {error.value}\n"

    again = hfauto_pipe.run(pipeline, set={"sink.path": str(out), "source.limit": 5}, fresh=True)
    assert again["rows_written"] == 5


def test_problems_of_a_file_are_those_that_the_program_shows(pipeline, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text(pipeline.read_text().replace("token-count:", "token-coun:"))
    with pytest.raises(hfauto_pipe.ConfigError) as error:
        hfauto_pipe.run(broken)
    ran = program("run", broken)
    assert ran.returncode == error.value.exit_code == 78
    assert ran.stderr.rstrip("\n") == str(error.value).rstrip("\n")
    assert "did you mean" in str(error.value)


def test_conflicting_options_are_refused(pipeline):
    with pytest.raises(hfauto_pipe.UsageError, match="`--prune` requires"):
        hfauto_pipe.run(pipeline, prune=True)
    with pytest.raises(hfauto_pipe.Error):
        hfauto_pipe.run("missing.yaml")


def test_the_command_is_the_program(repository):
    version = program("--version")
    assert version.returncode == 0 and version.stdout == f"hfauto-pipe {hfauto_pipe.__version__}\n"
    assert program("run").returncode == 64
    listed = program("models")
    assert listed.returncode == 0 and "bert" in listed.stdout


def test_scheduled_runs_start_the_command_again(pipeline, repository, tmp_path):
    text = pipeline.read_text().replace("../", f"{repository}/")
    text = text.replace("\nsink:", "\nschedule: {cron: '* * * * *'}\n\nsink:")
    text = text.replace(f"{repository}/out/", f"{tmp_path}/out/")
    (tmp_path / "count.yaml").write_text(text)
    # A new pipeline is due from the next minute on.
    first = program("run", "--due", tmp_path)
    assert first.returncode == 0 and not (tmp_path / "out").exists(), first.stderr
    time.sleep(61 - time.time() % 60)
    ran = program("run", "--due", tmp_path)
    assert ran.returncode == 0 and (tmp_path / "out").is_dir(), ran.stderr


def test_every_kind_has_a_class():
    kinds = [hfauto_pipe.NoInputError, hfauto_pipe.HubError, hfauto_pipe.InternalError]
    assert [(kind.kind, kind.exit_code) for kind in kinds] == [("no_input", 66), ("hub", 69), ("internal", 70)]
    with pytest.raises(hfauto_pipe.HubError, match="does not exist|offline|no directory"):
        hfauto_pipe.embed(["a"], model="nobody/nothing")
