"""The two programs that are measured, each a process that answers a line of JSON with a line of JSON, and what the
machine did meanwhile.
"""
import json
import os
import pathlib
import signal
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()


def cpu_seconds(pid):
    """CPU seconds of a process and all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def machine_seconds():
    """CPU seconds of everything on this machine, over all cores."""
    user, nice, system, _, _, irq, softirq, steal = map(int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICK


class Side:
    """One of the programs. One whose threads spin stands still while it is not asked, or it would take the cores of the
    others.
    """

    def __init__(self, name, command, environment, spins=False):
        self.name, self.spins = name, spins
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def ask(self, **order):
        """The answer, with `wall` and `cpu` seconds, and `others`: the share of the machine that other programs had."""
        if self.spins:
            self.process.send_signal(signal.SIGCONT)
        wall, cpu, machine = time.perf_counter(), cpu_seconds(self.process.pid), machine_seconds()
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended while it was asked for {order}; its message is above")
        answer = json.loads(line)
        answer["wall"] = time.perf_counter() - wall
        answer["cpu"] = cpu_seconds(self.process.pid) - cpu
        busy = machine_seconds() - machine - answer["cpu"]
        answer["others"] = max(0.0, busy / (answer["wall"] * CORES))
        if self.spins:
            self.process.send_signal(signal.SIGSTOP)
        return answer

    def peak_memory(self):
        """The most resident memory since the last `forget_peak`, in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def forget_peak(self):
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def end(self):
        self.process.stdin.close()
        self.process.send_signal(signal.SIGCONT)
        self.process.wait()
