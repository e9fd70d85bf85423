"""Runs the commands on files of the zoo, and reads what strace saw of it."""

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

SECONDS = 20  # for one command; a loaded machine takes 2 s to start one
TRACED = ",".join(
    """execve execveat fork vfork clone clone3 ptrace process_vm_writev kill tkill socket connect bind listen accept sendto open openat openat2
    creat rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat link linkat symlink symlinkat chmod fchmod fchmodat truncate ftruncate
    mknod mknodat chdir setuid mount""".split()
)


class Outcome:
    """What came of one command. `code` is negative for a signal; `memory` is its peak in bytes."""

    def __init__(self, pid, status, memory, folder):
        self.pid, self.code, self.memory = pid, os.waitstatus_to_exitcode(status), memory
        self.timed_out = self.code in (-signal.SIGALRM, -signal.SIGKILL)
        self.out, self.err = ((folder / name).read_bytes().decode("utf-8", "replace") for name in ("stdout", "stderr"))


class Server:
    """zoo_commands, one for each thread that asks. With `log`, under strace."""

    def __init__(self, program, log=None, address_space=0):
        self.program, self.log, self.address_space = program, log, address_space
        self.local = threading.local()
        self.lock, self.processes = threading.Lock(), []

    def process(self):
        if not hasattr(self.local, "process"):
            with self.lock:
                command = [self.program]
                if self.log:
                    command = [
                        "strace",
                        "-f",
                        "--seccomp-bpf",
                        "-qq",
                        "-y",
                        "-o",
                        f"{self.log}.{len(self.processes)}",
                        "-e",
                        "trace=" + TRACED,
                    ] + command
                self.local.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                self.processes.append(self.local.process)
        return self.local.process

    def run(self, command, arguments, folder):
        process = self.process()
        process.stdin.write("\x1f".join([command, str(folder), str(SECONDS), str(self.address_space), *arguments]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline().split()
        if len(answer) != 3:
            raise RuntimeError(f"zoo_commands ended while it ran {command} {arguments}")
        return Outcome(*map(int, answer), folder)

    def close(self):
        for process in self.processes:
            process.stdin.close()
            process.wait()
        return [Path(f"{self.log}.{i}").read_text(errors="replace") for i in range(len(self.processes))] if self.log else []


def run_program(command, folder, log=None):
    """One command as a process of its own."""
    if log:
        command = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-o", str(log), "-e", "trace=" + TRACED] + command
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        timer = threading.Timer(2 * SECONDS, lambda: os.killpg(process.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = status
    return Outcome(process.pid, status, usage.ru_maxrss * 1024, folder)


def judge_trace(log, folder_of, programs_allowed=0):
    """(folder, line) for each line of a trace that a reader of checkpoints has no business with.

    folder_of: the working folder of each process that is judged, by its number; its threads are found in the log.
    """
    folder_of = dict(folder_of)
    for line in log.splitlines():
        match = re.match(r"(\d+)\s+(\w+)\(", line)
        if not match:
            if thread := re.match(r"(\d+)\s+<\.\.\. clone3? resumed>.*= (\d+)", line):
                if int(thread[1]) in folder_of:
                    folder_of[int(thread[2])] = folder_of[int(thread[1])]
            continue
        pid, call, words = int(match[1]), match[2], line[match.end() :]
        if pid not in folder_of:
            continue
        folder = folder_of[pid]
        if call in ("clone", "clone3"):
            if "CLONE_THREAD" not in words:
                yield folder, line
            elif thread := re.search(r"= (\d+)$", words):
                folder_of[int(thread[1])] = folder
        elif call in ("execve", "execveat"):
            programs_allowed -= 1
            if programs_allowed < 0:
                yield folder, line
        elif call in ("open", "openat", "openat2"):
            if re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", words) and not to_output(words, folder):
                yield folder, line
        elif call == "chdir":
            if f'"{folder}"' not in words:
                yield folder, line
        elif call in (
            "rename",
            "renameat",
            "renameat2",
            "unlink",
            "unlinkat",
            "ftruncate",
            "fchmod",
            "link",
            "linkat",
            "chmod",
            "fchmodat",
        ):
            if not to_output(words, folder):
                yield folder, line
        else:
            yield folder, line


def to_output(words, folder):
    """True when every path of the call lies in the folder of the output, or is where the server sends a command's output."""
    paths = re.findall(r'"([^"]*)"', words) or re.findall(r"^\d+<([^>]*)>", words)
    allowed = r"(?:" + re.escape(str(folder)) + r"/)?(?:out/[^/]+|stdout|stderr)"
    return bool(paths) and all(re.fullmatch(allowed, path) for path in paths)
