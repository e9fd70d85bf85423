"""Every system call that matters, and allocations, made to fail once for every N; and the process killed at each of them.

    faults.py --tools FOLDER --shim fault_shim.so [--jobs convert,export,compress,compress-mi,evaluate] [--kinds kill,torn,enospc,…]
              [--sample N] [--allocations N] [--seed S]

--sample N takes N of the places of each kind and job, drawn by the seed; without it all of them. --allocations N draws N of the
allocations (they are too many for all). Each run must end with exit code 0 and the right bytes, or with exit code 1 and a message;
whatever happens, under the output's name lies the old output or the whole new one, nothing temporary is left by a run that was
not killed, and the same command again (with --resume where there is one) gives the right bytes.
"""

import argparse
import collections
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jobs

KINDS = ("kill", "torn", "enospc", "edquot", "eio", "eintr", "short", "alloc", "memory")
HARMLESS = ("eintr", "short")
MAKES = ("open", "mkdir", "posix_fallocate")
WRITES = ("write", "pwrite", "writev")
SYNCS = ("fsync", "fdatasync")
RUBBISH_MAY_STAY = ("unlink", "unlinkat", "rmdir")


def places(kind, calls):
    """The numbers of the calls where this kind does something."""
    wanted = {"torn": WRITES, "short": WRITES, "enospc": WRITES + MAKES, "edquot": WRITES + MAKES, "eintr": WRITES + SYNCS + ("open",)}.get(kind)
    return [number for number, (name, _) in enumerate(calls, 1) if wanted is None or name in wanted]


def read_log(log):
    calls, allocations = [], 0
    for line in log.read_text().splitlines():
        parts = line.split(" ", 2)
        if parts[0] == "allocations":
            allocations = int(parts[1])
        else:
            calls.append((parts[1], parts[2]))
    return calls, allocations


def judge(job, kind, call, done, folder):
    """What is wrong after a run with a fault."""
    code, state = done.returncode, job.state(folder)
    killed = kind in ("kill", "torn") and code == -9
    if code == -6 and kind in ("alloc", "memory") and "bad_alloc" in done.stderr:
        pass  # nlohmann's destructor allocates: counted as aborted, the output is judged like any other
    elif code < 0 and not killed:
        yield f"ended by signal {-code}: {done.stderr[-300:]}"
    elif code not in (0, 1, 3) and not killed:
        yield f"exit code {code}: {done.stderr[-300:]}"
    if code == 1 and "error: " not in done.stderr:
        yield f"exit code 1 without a message: {done.stderr[-300:]}"
    if code == 1 and kind in ("enospc", "edquot", "eio") and call[1].split("/")[-1].strip(".").split(".")[0] not in done.stderr:
        yield f"the message does not name {call[1]}: {done.stderr[-300:]}"
    if kind in HARMLESS and code != job.code:
        yield f"should do no harm, but: exit code {code}: {done.stderr[-300:]}"
    if state not in ("old", "new"):
        yield f"the output is {state}"
    if code == job.code and state != "new":
        yield f"exit code {code}, but the output is {state}"
    if code >= 0 and not killed and call[0] not in RUBBISH_MAY_STAY and (left := job.rubbish(folder)):
        yield f"left behind: {left}"


def try_one(job, kind, number, call, folder, shim):
    job.prepare(folder)
    done = job.run(folder, {"LD_PRELOAD": shim, "MIQ_FAULT_ROOT": str(folder), "MIQ_FAULT": f"{kind}@{number}"})
    problems = list(judge(job, kind, call, done, folder))
    outcome = {-9: "killed", -6: "aborted", 1: "failed"}.get(done.returncode, "done")
    if job.state(folder) != "new" or outcome != "done":
        again = job.run(folder, again=True)
        if again.returncode != job.code:
            problems.append(f"again: exit code {again.returncode}: {again.stderr[-300:]}")
        elif job.state(folder) != "new":
            problems.append(f"again: the output is {job.state(folder)}")
        elif left := [item for item in job.rubbish(folder)]:
            problems.append(f"left behind after the second run: {left}")
    shutil.rmtree(folder)
    return outcome, problems


def sweep(job, arguments, work, draw, table):
    log = work / "log"
    job.learn(work / "learn")
    if (work / "count").exists():
        shutil.rmtree(work / "count")
    log.unlink(missing_ok=True)
    job.prepare(work / "count")
    job.run(work / "count", {"LD_PRELOAD": arguments.shim, "MIQ_FAULT_ROOT": str(work / "count"), "MIQ_FAULT_LOG": str(log)})
    calls, allocations = read_log(log)
    wrong = 0
    for kind in arguments.kinds.split(","):
        if kind in ("alloc", "memory"):
            chosen = sorted(draw.sample(range(1, allocations + 1), min(arguments.allocations, allocations)))
        else:
            chosen = places(kind, calls)
            if arguments.sample and len(chosen) > arguments.sample:
                chosen = sorted(draw.sample(chosen, arguments.sample))
        for number in chosen:
            call = calls[number - 1] if kind not in ("alloc", "memory") else ("allocation", "")
            outcome, problems = try_one(job, kind, number, call, work / "run", arguments.shim)
            table[job.name, kind][outcome] += 1
            for problem in problems:
                wrong += 1
                print(f"{job.name} {kind}@{number} {' '.join(call)}: {problem}", flush=True)
    for name in ("learn", "count"):
        shutil.rmtree(work / name)
    return wrong, len(calls), allocations


def main():
    parser = argparse.ArgumentParser()
    for option in ("--tools", "--shim"):
        parser.add_argument(option, required=True, type=os.path.abspath)
    parser.add_argument("--jobs", default=",".join(job.name for job in jobs.JOBS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--allocations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    start, wrong = time.monotonic(), 0
    table = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory(prefix="faults") as name:
        work = Path(name).resolve()
        jobs.make_base(arguments.tools, work / "base")
        for kind in jobs.JOBS:
            if kind.name in arguments.jobs.split(","):
                found, calls, allocations = sweep(kind(arguments.tools, work / "base"), arguments, work, random.Random(arguments.seed), table)
                wrong += found
                print(f"{kind.name}: {calls} durable calls, {allocations} allocations", flush=True)
    runs = 0
    for (job, kind), outcomes in table.items():
        runs += outcomes.total()
        print(f"{job:12} {kind:8} {outcomes.total():5} places: " + ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items())))
    print(f"{runs} faults, {wrong} wrong; {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
