"""Runs the commands on files of the zoo, and reads what strace saw of it."""

import os
import re
import signal
import subprocess
import threading
from pathlib import Path

SECONDS = 20  # for one command; a loaded machine takes 2 s to start one
TRACED = ",".join(
    """execve execveat fork vfork clone clone3 ptrace process_vm_writev kill tkill socket connect bind listen accept sendto open openat
    openat2 creat rename renameat renameat2 unlink unlinkat rmdir mkdir mkdirat link linkat symlink symlinkat chmod fchmod fchmodat
    truncate ftruncate mknod mknodat chdir setuid mount""".split()
)
LINE = re.compile(r"(\d+)\s+(?:<\.\.\. )?(\w+)(?:\(|( resumed>))(.*)")
IN_OUTPUT = "rename renameat renameat2 unlink unlinkat ftruncate fchmod link linkat chmod fchmodat".split()


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
    lines = [(match, line) for line in log.splitlines() if (match := LINE.match(line))]
    folder_of = with_threads(lines, folder_of)
    for match, line in lines:
        pid, call, words = int(match[1]), match[2], match[4]
        if pid not in folder_of or match[3]:
            continue
        folder = folder_of[pid]
        if call in ("execve", "execveat"):
            programs_allowed -= 1
            allowed = programs_allowed >= 0
        elif call in ("clone", "clone3"):
            allowed = "CLONE_THREAD" in words
        elif call in ("open", "openat", "openat2"):
            allowed = not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", words) or to_output(words, folder)
        elif call == "chdir":
            allowed = f'"{folder}"' in words
        else:
            allowed = call in IN_OUTPUT and to_output(words, folder)
        if not allowed:
            yield folder, line


def with_threads(lines, folder_of):
    """`folder_of` with the threads that its processes start, wherever in the log they come to light."""
    folder_of = dict(folder_of)
    for match, _ in lines:
        started = re.search(r"= (\d+)$", match[4])
        if match[2] in ("clone", "clone3") and int(match[1]) in folder_of and started:
            folder_of[int(started[1])] = folder_of[int(match[1])]
    return folder_of


def converted(log):
    """How often a log shows a file made in a folder for output: what must be seen where something is converted."""
    return len(re.findall(r'open\w*\([^\n]*"[^"\n]*out/[^"\n]*", [^\n]*O_CREAT', log))


def to_output(words, folder):
    """True when every path of the call lies in the folder of the output, or is where the server sends a command's output."""
    paths = re.findall(r'"([^"]*)"', words) or re.findall(r"^\d+<([^>]*)>", words)
    allowed = r"(?:" + re.escape(str(folder)) + r"/)?(?:out/[^/]+|stdout|stderr)"
    return bool(paths) and all(re.fullmatch(allowed, path) for path in paths)
