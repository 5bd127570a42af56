"""The parts of a fleet as processes on this machine, and what they cost: services, coordinator, workers, client."""
import json
import os
import pathlib
import shlex
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
TICKS = os.sysconf("SC_CLK_TCK")
MEMORY = "/dev/shm"


def processes():
    """Every process: pid to (parent, CPU seconds of itself and of the children that it waited for, name)."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue
        name = text[text.index("(") + 1:text.rindex(")")]
        fields = text[text.rindex(")") + 2:].split()
        found[int(entry.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / TICKS, name)
    return found


def tree(root):
    """`root` and everything below it."""
    all_of_them, wanted = processes(), {root}
    grew = True
    while grew:
        more = {pid for pid, (parent, _, _) in all_of_them.items() if parent in wanted} - wanted
        wanted |= more
        grew = bool(more)
    return {pid: all_of_them[pid] for pid in wanted if pid in all_of_them}


def memory(pid, field="VmHWM"):
    """Bytes: the peak (VmHWM) or the present (VmRSS) resident memory of a process."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


class Fleet:
    """Private services and whatever is started on them; gone at the end of the `with`."""

    def __init__(self, bin_folder, in_memory=True):
        self.bin = pathlib.Path(bin_folder)
        self.in_memory = in_memory
        self.folder = tempfile.TemporaryDirectory(prefix="diorama-bench-")
        self.path = pathlib.Path(self.folder.name)
        self.parts = {}

    def __enter__(self):
        environment = self.path / "env"
        # What the services keep lies in memory: a fleet's services have disks of their own, and this machine's one disk
        # is not what is measured.
        services = dict(os.environ, TMPDIR=MEMORY) if self.in_memory and os.path.isdir(MEMORY) else None
        self.services = subprocess.Popen([self.bin / "diorama-services", environment], stdin=subprocess.PIPE, env=services)
        while not environment.exists():
            if self.services.poll() is not None:
                raise SystemExit("the services could not be started")
            time.sleep(0.1)
        self.environment = dict(os.environ, DIORAMA_SCRATCH=str(self.path))
        for line in environment.read_text().splitlines():
            (pair,) = shlex.split(line)[1:]
            name, _, value = pair.partition("=")
            self.environment[name] = value
        self.requests_file = pathlib.Path(self.environment["S3_REQUESTS"])
        return self

    def __exit__(self, *_):
        for name in list(self.parts):
            self.end(name)
        self.services.stdin.close()
        self.services.wait()
        self.folder.cleanup()

    def start(self, name, *arguments):
        log = open(self.path / f"{name}.log", "ab")
        program = [str(self.bin / "diorama"), *map(str, arguments)]
        self.parts[name] = subprocess.Popen(program, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self.parts[name]

    def end(self, name):
        part = self.parts.pop(name)
        part.terminate()
        try:
            part.wait(30)
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()

    def kill(self, name):
        part = self.parts.pop(name)
        part.kill()
        part.wait()

    def serve(self, port=8791):
        self.start("coordinator", "serve", "--listen", f"127.0.0.1:{port}")
        self.api = f"http://127.0.0.1:{port}"
        self.environment["DIORAMA_COORDINATOR"] = self.api
        self.until("the coordinator answers", lambda: self.answers("/readyz"))

    def worker(self, name, *arguments):
        return self.start(name, "worker", "--worker", name, *arguments)

    def synthetic(self, name, *arguments, latency=0, batch=64):
        return self.worker(name, "--engine", "synthetic", "--synthetic-latency", latency, "--batch-size", batch, *arguments)

    def answers(self, path):
        try:
            with urllib.request.urlopen(self.api + path, timeout=60) as answer:
                return answer.read()
        except OSError:
            return None

    def status(self, run):
        return json.loads(self.answers(f"/v1/runs/{run}") or b"{}")

    def client(self, *arguments):
        """Runs a command of the client; gives its JSON, its seconds and its peak memory."""
        started = time.monotonic()
        process = subprocess.Popen([str(self.bin / "diorama"), *map(str, arguments), "--json"], env=self.environment,
                                   stdout=subprocess.PIPE, text=True)
        output = process.stdout.read()
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        if process.returncode:
            raise SystemExit(f"diorama {' '.join(map(str, arguments))} ended with {process.returncode}: {output}")
        return {"json": json.loads(output.strip().splitlines()[-1]), "seconds": time.monotonic() - started,
                "peak": usage.ru_maxrss * 1024, "cpu": usage.ru_utime + usage.ru_stime}

    def until(self, what, holds, patience=600, pause=0.05):
        limit = time.monotonic() + patience
        while True:
            value = holds()
            if value:
                return value
            if time.monotonic() > limit:
                raise SystemExit(f"{what}: not within {patience} s; logs in {self.path}")
            time.sleep(pause)

    def ended(self, run, patience=3600):
        return self.until("the run ends", lambda: self.status(run).get("summary"), patience)

    def requests(self):
        """Requests to the S3 server so far."""
        # A rule of a test that was applied has a line of its own.
        lines = self.requests_file.read_text().splitlines()
        return sum(not line.startswith("rule ") for line in lines)

    def cpu(self):
        """CPU seconds so far: of each of our parts, of each service."""
        seconds = {name: sum(cpu for _, cpu, _ in tree(part.pid).values()) for name, part in self.parts.items()}
        names = {"beam.smp": "RabbitMQ", "redis-server": "Redis", "diorama-s3": "S3 server"}
        for _, cpu, name in tree(self.services.pid).values():
            if name in names:
                seconds[names[name]] = seconds.get(names[name], 0) + cpu
        return seconds


def manifest(path, rows, prompt="a seagull standing"):
    """A manifest of `rows` rows without references."""
    with open(path, "w", encoding="utf-8") as file:
        for row in range(rows):
            file.write(f'{{"custom_id":"row-{row:08}","prompt":"{prompt}","method":"txt2img"}}\n')
    return path
