"""Signals, threads, processes and progress."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import hfauto_pipe

MANY = 200_000

INTERRUPTED = """
import os, signal, sys, threading, time
import hfauto_pipe
texts = [f"number {i} of many, with a few words more" for i in range(%d)]
class Meter:
    def update(self, rows, total):
        # The model computes: the user presses Ctrl-C.
        if rows and not hasattr(self, "at"):
            self.at = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
    def close(self): pass
meter = Meter()
hfauto_pipe._functions.meter = lambda title, progress: meter
try:
    %s
except KeyboardInterrupt:
    print("interrupted after", time.monotonic() - meter.at)
print("alive", hfauto_pipe.token_count(["a"], model=sys.argv[1]).to_pylist())
"""


@pytest.mark.parametrize(
    "call",
    [
        "hfauto_pipe.embed(texts, model=sys.argv[1])",
        "hfauto_pipe.sql('SELECT embed(t, \\'m\\') FROM t', t=texts, models={'m': sys.argv[1]})",
    ],
)
def test_an_interrupt_ends_a_call_within_a_second(call, model):
    script = INTERRUPTED % (MANY, call)
    ran = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.splitlines()
    assert first.startswith("interrupted after ") and float(first.split()[-1]) < 1.0
    assert second.startswith("alive [")


def test_an_interrupted_run_leaves_nothing_that_looks_complete(model, repository, tmp_path):
    rows = "text\n" + "".join(f"number {i} of many with a few words more\n" for i in range(MANY))
    (tmp_path / "many.csv").write_text(rows)
    (tmp_path / "many.yaml").write_text(
        f"version: 1\nmodels: {{m: {{repo: {model}}}}}\nsource: {{path: many.csv}}\n"
        "steps:\n  - feature-extraction: {model: m, input: text, output: e}\n"
        "sink: {path: out.parquet}\n"
    )
    script = INTERRUPTED % (1, f"hfauto_pipe.run({str(tmp_path / 'many.yaml')!r})")
    ran = subprocess.run([sys.executable, "-c", script, model], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    first = ran.stdout.splitlines()[0]
    assert first.startswith("interrupted after ") and float(first.split()[-1]) < 1.0
    assert not (tmp_path / "out.parquet").exists()


def test_other_threads_run_meanwhile(model):
    ticks = []
    done = threading.Event()

    def tick():
        while not done.wait(0.005):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.monotonic()
    hfauto_pipe.embed([f"number {i} of several" for i in range(2000)], model=model)
    seconds = time.monotonic() - started
    done.set()
    thread.join()
    within = [at for at in ticks if at >= started]
    # Without the GIL, the other thread would stop for the whole call.
    assert len(within) > seconds / 0.05


def test_calls_of_several_threads_are_independent(model):
    results = {}

    def call(number):
        results[number] = hfauto_pipe.embed([f"number {number}"] * 3, model=model).to_pylist()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for number in range(4):
        assert results[number] == hfauto_pipe.embed([f"number {number}"] * 3, model=model).to_pylist()


def test_a_forked_process_gets_an_error(model):
    hfauto_pipe.token_count(["a"], model=model)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            hfauto_pipe.token_count(["a"], model=model)
        except hfauto_pipe.UsageError as error:
            code = 7 if "spawn" in str(error) else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7


def test_unloaded_models_are_loaded_again(model):
    before = hfauto_pipe.embed(["a"], model=model).to_pylist()
    hfauto_pipe.unload()
    assert hfauto_pipe.embed(["a"], model=model).to_pylist() == before


def shown(script, model, *options):
    command = [sys.executable, *options, "-c", script, model]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


CALL = """
import sys
{before}
import hfauto_pipe
hfauto_pipe.embed([f"number {{i}}" for i in range(300)], model=sys.argv[1]{argument})
"""


def test_progress_is_a_line_without_tqdm(model):
    without = "sys.modules['tqdm'] = sys.modules['tqdm.auto'] = None"
    lines = shown(CALL.format(before=without, argument=", progress=True"), model).splitlines()
    assert lines[-1].startswith("embed: 300 of 300 rows  ")
    assert shown(CALL.format(before=without, argument=""), model) == ""


def test_progress_is_a_bar_with_tqdm(model):
    pytest.importorskip("tqdm")
    text = shown(CALL.format(before="", argument=", progress=True"), model)
    assert "embed: 100%" in text and "300/300" in text
    assert shown(CALL.format(before="", argument=", progress=False"), model) == ""
