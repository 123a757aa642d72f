"""Measures `run --cluster` and `run --join` beside `run`: overhead, scaling, a slow executor, model loads, memory, many
units and files, and requests to an object store. Prints a line per figure. Python's standard library only; the part
`requests` needs the program moto_server in HFAUTO_MOTO.

    python3 benches/cluster.py PROGRAM [overhead scaling straggler loads files units requests]
"""

import argparse
import json
import os
import pathlib
import random
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
WORDS = "the of sea boat bread market harbour a in while captain waited morning letters cold window street quiet".split()


class Bench:
    """A folder with inputs and a pipeline, and the processes over it."""

    def __init__(self, program, source):
        self.program = str(pathlib.Path(program).resolve())
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="hfauto-bench-"))
        self.environment = dict(os.environ, HF_HUB_OFFLINE="1", NO_COLOR="1")
        self.services = []
        (self.folder / "job.yaml").write_text(
            f"version: 1\nmodels:\n  mini: {{repo: {REPOSITORY}/examples/models/mini-embedder}}\n"
            f"source: {{path: {source}}}\n"
            "steps:\n  - feature-extraction: {model: mini, input: text, output: embedding}\n"
            "sink: {path: out/}\n"
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for service in self.services:
            service.kill()
            service.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def csv(self, files, rows, words, seed=7):
        source = self.folder / "in"
        source.mkdir(exist_ok=True)
        draw = random.Random(seed)
        for file in range(files):
            lines = [f"{row},{' '.join(draw.choices(WORDS, k=draw.randint(1, words)))}" for row in range(rows)]
            (source / f"{file:06}.csv").write_text("id,text\n" + "\n".join(lines) + "\n")

    def command(self, args, cores=None):
        pin = ["taskset", "-c", cores] if cores else []
        return [*pin, self.program, *args]

    def service(self, args, cores=None):
        log = open(self.folder / f"service-{len(self.services)}.log", "w")
        process = subprocess.Popen(
            self.command(args, cores), cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        process.log = log.name
        self.services.append(process)
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit(pathlib.Path(log.name).read_text())
        return process, line

    def scheduler(self):
        return self.service(["cluster", "scheduler", "--bind", "127.0.0.1:0"])[1]

    def executor(self, address, *args, cores=None):
        return self.service(["cluster", "executor", address, "--log-format", "json", *args], cores)[0]

    def run(self, *args, cores=None):
        """The report of a run into an empty output, the seconds that it took, and its greatest memory in bytes."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        report = self.folder / "report.json"
        begun = time.monotonic()
        process = subprocess.Popen(
            self.command(["run", "job.yaml", "--progress", "none", "--report", str(report), *args], cores),
            cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        text = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        if status:
            raise SystemExit(f"exit status {status}: {text}")
        return json.loads(report.read_text())["run"], seconds, usage.ru_maxrss * 1024


def peak(process):
    """The greatest memory of a running process, in bytes."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


def say(name, figures):
    print(f"{name}: {figures}", flush=True)


def median(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def overhead(program, rounds):
    """One executor on this machine beside `run`: units of about ten seconds, or of HFAUTO_UNIT_ROWS rows."""
    rows = int(os.environ.get("HFAUTO_UNIT_ROWS", 16_000))
    with Bench(program, "in/*.csv") as bench:
        bench.csv(files=6, rows=rows, words=60)
        address = bench.scheduler()
        executor = bench.executor(address)
        unit = ["--set", f"run.unit_rows={rows}"]
        bench.run(*unit, "--cluster", address)
        ratios, own, units, idle = [], [], [], []
        for _ in range(rounds):
            report, alone, memory = bench.run(*unit)
            own.append(memory)
            units += [unit["seconds"] for unit in report["units"].get("slowest", [])]
            begun = len(pathlib.Path(executor.log).read_text().splitlines())
            seconds = bench.run(*unit, "--cluster", address)[1]
            ratios.append(alone / seconds)
            lines = pathlib.Path(executor.log).read_text().splitlines()[begun:]
            busy = sum(json.loads(line)["seconds"] for line in lines if '"unit done"' in line) / 2
            idle.append(seconds - busy)
        say("rows/s of one executor over run", median(ratios))
        say("seconds a unit, at most", f"{max(units, default=0):.1f}")
        say("seconds of a cluster run in which a slot of the executor has no unit, on average", median(idle))
        say("memory of the executor after all jobs - memory of run, MiB", f"{(peak(executor) - max(own)) / 2**20:.0f}")


def scaling(program, rounds):
    """Two executors with a core each beside one; and, as what the machine allows, a run with two workers beside one."""
    with Bench(program, "in/*.csv") as bench:
        bench.csv(files=64, rows=400, words=60)
        one, two = bench.scheduler(), bench.scheduler()
        bench.executor(one, cores="0")
        bench.executor(two, cores="0")
        bench.executor(two, cores="1")
        for address in [one, two]:
            bench.run("--cluster", address)
        ratios, ceilings = [], []
        for _ in range(rounds):
            ratios.append(bench.run("--cluster", one)[1] / bench.run("--cluster", two)[1])
            alone = bench.run("--set", "run.workers=1", cores="0")[1]
            ceilings.append(alone / bench.run("--set", "run.workers=2", cores="0,1")[1])
        say("two executors of one core over one", median(ratios))
        say("a run with two workers over one with one", median(ceilings))


class Throttle(threading.Thread):
    """Lets a process run for a share of the time."""

    def __init__(self, process, share):
        super().__init__(daemon=True)
        self.process, self.share, self.ends = process, share, False
        self.start()

    def run(self):
        period = 0.1
        while not self.ends and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            time.sleep(period * self.share)
            os.kill(self.process.pid, signal.SIGSTOP)
            time.sleep(period * (1 - self.share))
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)


def straggler(program, rounds):
    """One of three executors four times slower, by signals: 60%, 60% and 15% of a core."""
    shares = [0.6, 0.6, 0.15]
    with Bench(program, "in/*.csv") as bench:
        bench.csv(files=48, rows=400, words=60)
        full, slow = bench.scheduler(), bench.scheduler()
        bench.executor(full, "--units-in-flight", "1", cores="0")
        executors = [bench.executor(slow, "--units-in-flight", "1", cores=core) for core in ["0", "1", "1"]]
        for address in [full, slow]:
            bench.run("--cluster", address)
        over, bounds = [], []
        for _ in range(rounds):
            work = bench.run("--cluster", full)[1]
            throttles = [Throttle(*pair) for pair in zip(executors, shares)]
            took = bench.run("--cluster", slow)[1]
            for throttle in throttles:
                throttle.ends = True
                throttle.join()
            ideal, unit = work / sum(shares), work / 48 / min(shares)
            over.append(took / ideal)
            bounds.append((1.15 * ideal + unit) / ideal)
        say("time with a slow executor over the ideal", median(over))
        say("allowed: 1.15 and one unit of the slow one", median(bounds))


def loads(program, _):
    """Loads of a model over 200 units and two jobs, by two executors."""
    with Bench(program, "in/*.csv") as bench:
        bench.csv(files=200, rows=3, words=10)
        address = bench.scheduler()
        executors = [bench.executor(address) for _ in range(2)]
        for _ in range(2):
            bench.run("--cluster", address)
        for executor in executors:
            text = pathlib.Path(executor.log).read_text()
            say("model loads of an executor", f"{text.count('model loaded')}, units {text.count('unit done')}")


def files(program, _):
    """10,000 files of three rows: the time until the first manifest, and until the end."""
    with Bench(program, "in/*.csv") as bench:
        bench.csv(files=10_000, rows=3, words=10)
        address = bench.scheduler()
        bench.executor(address)
        begun = time.monotonic()
        client = subprocess.Popen(
            bench.command(["run", "job.yaml", "--progress", "none", "--cluster", address]), cwd=bench.folder,
            env=bench.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        done = bench.folder / "out/_hfauto/units"
        while not (done.is_dir() and any(done.iterdir())):
            if client.poll() is not None:
                raise SystemExit("the run ended before its first unit")
            time.sleep(0.01)
        say("10,000 files: seconds to the first unit", f"{time.monotonic() - begun:.1f}")
        client.wait()
        say("10,000 files: seconds to the end", f"{time.monotonic() - begun:.1f}")


def units(program, _):
    """The client's memory with 100,000 units; they are committed until the time is up."""
    count, seconds = 100_000, 240
    with Bench(program, "in/*.csv") as bench:
        bench.csv(files=count, rows=1, words=3)
        address = bench.scheduler()
        scheduler = bench.services[0]
        bench.executor(address)
        client = subprocess.Popen(
            bench.command(["run", "job.yaml", "--progress", "none", "--cluster", address]), cwd=bench.folder,
            env=bench.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        begun, memory = time.monotonic(), 0
        while client.poll() is None and time.monotonic() - begun < seconds:
            time.sleep(1)
            memory = peak(client) if client.poll() is None else memory
        done = sum(1 for _ in (bench.folder / "out").rglob("*.json"))
        say(
            f"{count} units, {time.monotonic() - begun:.0f} s: client MiB, allowed MiB, scheduler MiB, units done",
            f"{memory / 2**20:.0f}, {100 + count / 1024:.0f}, {peak(scheduler) / 2**20:.0f}, {done}",
        )
        client.kill()
        client.wait()


def requests(program, _):
    """Requests to a store per unit: input, output and manifests, counted by the server's log."""
    server = os.environ.get("HFAUTO_MOTO")
    if not server:
        return say("requests", "SKIPPED: HFAUTO_MOTO names no moto_server")
    port = random.randint(20_000, 40_000)
    count = 40
    with Bench(program, "s3://bench/in/") as bench:
        pipeline = bench.folder / "job.yaml"
        pipeline.write_text(pipeline.read_text().replace("out/", "s3://bench/out/"))
        log = open(bench.folder / "moto.log", "w")
        moto = subprocess.Popen([server, "-p", str(port)], stdout=log, stderr=log)
        bench.services.append(moto)
        url = f"http://127.0.0.1:{port}"
        bench.environment |= {
            "AWS_ENDPOINT": url, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
        }

        def put(path, content=b""):
            for attempt in range(100):
                try:
                    # The server takes any other content for a form.
                    kind = {"Content-Type": "application/octet-stream"}
                    request = urllib.request.Request(f"{url}/{path}", content, kind, method="PUT")
                    return urllib.request.urlopen(request, timeout=10).read()
                except OSError:
                    if attempt == 99:
                        raise
                    time.sleep(0.1)

        def listed():
            return [line for line in pathlib.Path(log.name).read_text().splitlines() if " HTTP/1.1" in line]

        put("bench")
        bench.csv(files=2 * count, rows=50, words=20)
        paths = sorted((bench.folder / "in").glob("*.csv"))
        copies = [f"COPY (SELECT * FROM '{path}') TO '{path.with_suffix('.parquet')}'" for path in paths]
        subprocess.run([bench.program, "sql", ";".join(copies)], check=True, stdout=subprocess.DEVNULL)
        for kind in ["csv", "parquet"]:
            for number, path in enumerate(paths):
                path = path.with_suffix(f".{kind}")
                put(f"bench/{kind}{number // count}/{path.name}", path.read_bytes())
        for kind in ["csv", "parquet"]:
            for mode in ["run", "join", "cluster"]:
                totals, examples = [], []
                # The difference of two runs leaves out what a run needs once.
                for sources in [f"{kind}0/", f"{kind}"]:
                    address = bench.scheduler() if mode == "cluster" else None
                    executor = bench.executor(address) if address else None
                    args = {"run": [], "join": ["--join"], "cluster": ["--cluster", address]}[mode]
                    source = f"s3://bench/{sources}" if sources.endswith("/") else f"s3://bench/{kind}*/*"
                    before = len(listed())
                    bench.run(*args, "--set", f"source.path={source}", "--set", f"sink.path=s3://bench/o-{kind}-{mode}-{len(totals)}/")
                    if executor:
                        executor.terminate()
                        executor.wait()
                    lines = listed()[before:]
                    totals.append(len(lines))
                    examples = lines
                say(f"requests a unit, {kind}, {mode}", f"{(totals[1] - totals[0]) / count:.1f}")
                kinds = {}
                for line in examples:
                    method, path = re.search(r'(GET|HEAD|PUT|POST|DELETE) (\S+) ', line).groups()
                    path = re.sub(r"[0-9a-f]{16,}|\d{3,}[-\w.]*", "*", path.split("?")[0]) + ("?list" if "list-type" in path else "")
                    kinds[f"{method} {path}"] = kinds.get(f"{method} {path}", 0) + 1
                for name, times in sorted(kinds.items(), key=lambda item: -item[1])[:14]:
                    print(f"    {times:5} {name}", flush=True)


PARTS = {part.__name__: part for part in [overhead, scaling, straggler, loads, files, units, requests]}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.parts or PARTS:
        PARTS[name](arguments.program, arguments.rounds)
