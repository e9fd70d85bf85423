"""The hostile zoo: checkpoints made to harm their reader, and what the commands make of them.

    hostile.py --server zoo_commands --tools FOLDER [--strace] [--sanitized] [--only WORD] [--jobs N] [--every N] [--verbose]
    hostile.py --list

Every file is made anew in a temporary folder. Each must be refused by convert-checkpoint (exit code 1; the message names
the file, the offset where there is one, and the reason) and be refused or described as data by inspect-checkpoint; no
signal, no time-out, no memory beyond what an idle process takes and the entry allows, no file left behind, and no
trace of anything executed: the pickles would create a file named 'canary'. That the canary works is shown by letting
Python itself load one of them. Every N-th file also goes to the installed programs, as processes of their own.

With --strace both commands run under strace and only their system calls are judged: no program started, no socket, no
file opened for writing, renamed, removed or linked outside the folder of the output. Exit code 77: strace cannot trace here.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hostile_folder
import hostile_gguf
import hostile_globals
import hostile_model
import hostile_pickle
import hostile_safetensors
import hostile_stream
import hostile_torch
import hostile_zip
import runner
from zoo import CANARY, Fifo, Link

MAKERS = [
    hostile_safetensors,
    hostile_gguf,
    hostile_folder,
    hostile_model,
    hostile_pickle,
    hostile_globals,
    hostile_stream,
    hostile_zip,
    hostile_torch,
]
ALWAYS_WRONG = [
    "Sanitizer",
    "runtime error:",
    "terminate called",
    "Assertion",
    "internal error",
    "bad_alloc",
    "out of memory",
    "std::",
    "json.exception",
    "basic_string",
    "vector::",
    "c10::",
    "fault of",
]


def write(entry, folder):
    """Writes an entry's files into `folder`; the path to give to the commands."""
    path = folder / entry.name
    if isinstance(entry.files, bytes):
        path.write_bytes(entry.files)
        return path
    path.mkdir()
    for name, content in entry.files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            target.symlink_to(content)
        elif isinstance(content, Fifo):
            os.mkfifo(target)
        else:
            target.write_bytes(content)
    return path


def check_general(entry, run, idle, sanitized):
    if run.timed_out:
        yield f"not done after {runner.SECONDS} s"
    elif run.code not in (0, 1):
        yield f"killed by {signal.Signals(-run.code).name}" if run.code < 0 else f"exit code {run.code}"
    yield from (f"the message says '{words}'" for words in ALWAYS_WRONG if words in run.err)
    if len(run.err) > 4000:
        yield f"a message of {len(run.err)} bytes"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", run.err + run.out):
        yield "control characters reach the terminal"
    if not sanitized and run.memory > idle + entry.memory:
        yield f"{(run.memory - idle) >> 20} MiB above an idle process"


def check_message(entry, what, run):
    if run.code != 1 or "error: " not in run.err:
        yield f"not refused (exit code {run.code})"
        return
    if (entry.at or entry.name) not in run.err:
        yield f"the message does not name {entry.at or entry.name}"
    if what != "read-torch-file" and entry.torch is not None:
        # The commands may find something else wrong first: a tensor without a model is not looked at.
        if entry.torch != "refused" or any(
            words in run.err for words in ("not a checkpoint that miq reads", "no model in it", "no model config")
        ):
            return
    if entry.offset and not re.search(r"at byte \d+", run.err):
        yield "the message names no offset"
    yield from (f"the message does not say '{word}'" for word in entry.refused if word not in run.err)


def check(entry, what, run, idle, sanitized):
    yield from check_general(entry, run, idle, sanitized)
    if what == "convert-checkpoint":
        if entry.refused:
            yield from check_message(entry, what, run)
        elif run.code != 0:
            yield "refused"
    elif what == "read-torch-file" and entry.torch == "refused":
        yield from check_message(entry, what, run)
    elif what == "read-torch-file":
        if run.code != 0:
            yield f"refused (exit code {run.code})"
        yield from (f"does not say '{word}'" for word in entry.torch if word not in run.out)
    elif entry.inspect == "refused" or (entry.inspect == "either" and run.code != 0):
        yield from check_message(entry, what, run)
    elif run.code != 0:
        yield f"refused (exit code {run.code})"
    elif entry.inspect == "either" and entry.torch is None:
        yield from (f"does not say '{word}'" for word in entry.refused if word not in run.out)
    elif entry.inspect != "either":
        yield from (f"does not say '{word}'" for word in entry.inspect if word not in run.out)


class Zoo:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        # ASan reserves terabytes of addresses.
        self.server = runner.Server(
            arguments.server, folder / "trace" if arguments.strace else None, 0 if arguments.sanitized else 16 << 30
        )
        self.traced = {}
        self.idle = {}

    def close(self):
        return self.server.close()

    def run(self, what, arguments, folder, alone):
        if not alone:
            return self.server.run(what, arguments, folder)
        log = folder / "trace" if self.arguments.strace else None
        return runner.run_program([f"{self.arguments.tools}/{what}", *arguments], folder, log)

    def measure_idle(self):
        (self.folder / "idle").write_bytes(b"neither")
        for alone in (False, True):
            self.idle[alone] = self.run("inspect-checkpoint", ["idle"], self.folder, alone).memory

    def visit(self, entry, alone):
        """What is wrong with how the commands treat the entry, as lines; and what they said."""
        problems, said = [], ""
        folder = self.folder / f"{entry.name}.{'process' if alone else 'server'}"
        (folder / "out").mkdir(parents=True)
        path = write(entry, folder)
        before = set(folder.rglob("*"))
        commands = {"inspect-checkpoint": [path.name], "convert-checkpoint": [path.name, "-o", "out/result.miq"]}
        if entry.torch is not None and not alone:
            commands["read-torch-file"] = [path.name]
        for what, arguments in commands.items():
            run = self.run(what, arguments, folder, alone)
            said += "".join(f"    {line[:400]}\n" for line in (run.err or run.out).splitlines()[:4])
            if self.arguments.strace:
                self.traced[run.pid] = folder
                if alone:
                    log = (folder / "trace").read_text(errors="replace")
                    problems += [f"{what}: {line}" for _, line in runner.judge_trace(log, {int(log.split()[0]): folder}, 1)]
            else:
                problems += [f"{what}: {problem}" for problem in check(entry, what, run, self.idle[alone], self.arguments.sanitized)]
        if (folder / CANARY).exists():
            problems.append("THE CANARY: something in the file was executed")
        expected = {"stdout", "stderr", "trace"} | (set() if entry.refused else {"result.miq"})
        left = [str(item.relative_to(folder)) for item in set(folder.rglob("*")) - before if item.name not in expected]
        if left:
            problems.append(f"left behind: {left}")
        shutil.rmtree(folder)
        return problems, said


def all_entries(only):
    made = [entry for maker in MAKERS for entry in maker.entries()]
    seen = {}
    for entry in made:
        # A name or content that stands twice is a mistake here: every file must be a case of its own.
        files = {"": entry.files} if isinstance(entry.files, bytes) else entry.files
        content = tuple(
            sorted(
                (name, type(value).__name__, b"" if isinstance(value, Fifo) else value.encode() if isinstance(value, Link) else value)
                for name, value in files.items()
            )
        )
        for key in (entry.name, content):
            if key in seen:
                sys.exit(f"{entry.name} and {seen[key]} are the same")
            seen[key] = entry.name
    return [entry for entry in made if only in entry.name]


def canary_sings(folder):
    """Python itself, made to load a pickle of the zoo, runs what it holds: only so does the canary's silence mean anything."""
    (folder / "singer.pkl").write_bytes(hostile_pickle.SINGER)
    subprocess.run(
        [sys.executable, "-c", "import pickle; pickle.load(open('singer.pkl', 'rb'))"],
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return (folder / CANARY).exists()


def trace_sees(folder):
    """A program that does what no reader may do must be seen doing each of it."""
    folder = folder / "seen"
    (folder / "out").mkdir(parents=True)
    acts = ["os.system('true')", "socket.socket()", "open('../outside', 'w')", "os.rename('out/in', 'away')", "os.mkdir('made')"]
    done = runner.run_program(
        [sys.executable, "-c", "import os, socket; open('out/in', 'w'); " + "; ".join(acts)], folder, folder / "trace"
    )
    log = (folder / "trace").read_text(errors="replace")
    seen = [line for _, line in runner.judge_trace(log, {int(log.split()[0]): folder}, 1)]
    wanted = ["fork|clone", "socket", "outside", "away", "made"]
    return [f"the trace does not see {what} {done.err}" for what in wanted if not any(re.search(what, line) for line in seen)]


def why_not_traced():
    if not shutil.which("strace"):
        return "strace is not installed"
    done = subprocess.run(
        ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=execve", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()[:200]}"


def tour(arguments, entries, folder):
    zoo = Zoo(arguments, folder)
    wrong = {}
    if arguments.strace:
        wrong = {"strace": unseen} if (unseen := trace_sees(folder)) else {}
    else:
        zoo.measure_idle()
        if not canary_sings(folder):
            wrong["canary"] = ["it does not sing when Python loads the file: its silence proves nothing"]
    visits = [(entry, alone) for i, entry in enumerate(entries) for alone in ([False, True] if i % arguments.every == 0 else [False])]
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for (entry, alone), (problems, said) in zip(visits, pool.map(lambda visit: zoo.visit(*visit), visits)):
            if problems:
                wrong.setdefault(f"{entry.name} ({entry.why})", []).extend(problems + [said])
            elif arguments.verbose and not alone:
                print(f"{entry.name}\n{said}", end="")
    logs, made = zoo.close(), 0
    for log in logs:
        made += runner.converted(log)
        for place, line in runner.judge_trace(log, zoo.traced):
            wrong.setdefault(place.name, []).append(line)
    if logs and made < sum(not entry.refused for entry in entries):
        wrong["strace"] = [f"the trace shows {made} files made, fewer than are converted: it does not see everything"]
    for name, problems in wrong.items():
        print(name + "\n" + "".join(f"  {problem}\n" for problem in problems))
    return len(wrong), "" if arguments.strace else f"; an idle process takes {zoo.idle[True] >> 20} MiB"


def main():
    parser = argparse.ArgumentParser()
    for option in ("--server", "--tools"):
        parser.add_argument(option)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--every", type=int, default=20)
    for option in ("--strace", "--sanitized", "--list", "--verbose"):
        parser.add_argument(option, action="store_true")
    arguments = parser.parse_args()
    entries = all_entries(arguments.only)
    if arguments.list:
        for entry in entries:
            print(f"{entry.name:45} {'; '.join(entry.refused) or 'loads':50} {entry.why}")
        return 0
    if arguments.strace and (reason := why_not_traced()):
        print("skipped:", reason)
        return 77
    arguments.server, arguments.tools = os.path.abspath(arguments.server), os.path.abspath(arguments.tools)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zoo") as name:
        wrong, note = tour(arguments, entries, Path(name).resolve())
    refused = sum(bool(entry.refused) for entry in entries)
    print(f"{len(entries)} files, {refused} of them refused by convert-checkpoint: {wrong} wrong; {time.monotonic() - start:.1f} s{note}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
