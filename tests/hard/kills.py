"""kill -9 at random instants of a compression, resumed each time, until it has been killed often enough.

    kills.py --tools FOLDER --model FOLDER --text FILE [--kills 300] [--method mi] [--nsamples 16] [--seqlen 64] [--seed 0]

A run that was left alone gives the digest that every other must end with. Whatever lies under the final name after a kill must pass
`inspect-checkpoint --verify`, and no kill may cost more than the layer it hit: a resumed run says how many layers it found.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

METHODS = {
    "sparsegpt": ["--method", "sparsegpt", "--sparsity", "0.5", "--wbits", "4"],
    "mi": ["--method", "mi", "--target-avg-bits", "4", "--sparsity", "0.4"],
    "mixed": ["--method", "mixed", "--target-avg-bits", "4"],
}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Runs:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.out = folder / "out.miq"

    def command(self, output, *more):
        a = self.arguments
        return [f"{a.tools}/miq-compress", "dense.miq", a.text, "-o", output, "--documents", "whole", "--sampling", "in-order", "--nsamples",
                str(a.nsamples), "--seqlen", str(a.seqlen), "--dtype", "float32", "--threads", "2", *METHODS[a.method], *more]  # fmt: skip

    def alone(self):
        start = time.monotonic()
        done = subprocess.run(self.command("whole.miq"), cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"the run that is left alone fails: {done.stderr}")
        return digest(self.folder / "whole.miq"), time.monotonic() - start

    def killed_after(self, seconds):
        """Exit code, or None where it was killed; and what it said."""
        with open(self.folder / "err", "w+") as err:
            child = subprocess.Popen(self.command("out.miq", "--resume"), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=err)
            try:
                code = child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                code = child.wait()
            err.seek(0)
            return None if code == -signal.SIGKILL else code, err.read()


def main():
    parser = argparse.ArgumentParser()
    for option in ("--tools", "--model", "--text"):
        parser.add_argument(option, required=True, type=os.path.abspath)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--method", default="mi", choices=list(METHODS))
    for option, default in (("--nsamples", 16), ("--seqlen", 64), ("--seed", 0)):
        parser.add_argument(option, type=int, default=default)
    arguments = parser.parse_args()
    if not Path(arguments.model).exists():
        print("skipped: there is no", arguments.model)
        return 77
    draw = random.Random(arguments.seed)
    wrong, kills, finished, layers = [], 0, 0, 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills") as name:
        runs = Runs(arguments, Path(name))
        subprocess.run([f"{arguments.tools}/convert-checkpoint", "-q", arguments.model, "-o", "dense.miq"], cwd=name, check=True, stdout=subprocess.DEVNULL)
        expected, whole = runs.alone()
        while kills < arguments.kills:
            code, said = runs.killed_after(draw.uniform(0, whole))
            found = re.search(r"resuming with (\d+) of", said)
            if "resuming" in said or "begins anew" in said:  # else it was killed before it could say
                kept = int(found.group(1)) if found else 0
                if kept < layers:
                    wrong.append(f"after {kills} kills: {kept} layers are found where there were {layers}")
                layers = max(layers, kept)
            kills += code is None
            if code is None and kills % 20 == 0:
                print(f"{kills} kills, {finished} runs reached their end, {len(wrong)} wrong, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            if runs.out.exists():
                check = subprocess.run([f"{arguments.tools}/inspect-checkpoint", "--verify", "out.miq"], cwd=name, capture_output=True, text=True, check=False)
                if check.returncode != 0 or digest(runs.out) != expected:
                    wrong.append(f"after {kills} kills: {check.stderr or 'other bytes'}")
                runs.out.unlink()
                layers = 0
                finished += 1
                if code is None:  # killed between the rename and the end: its journal may still be there
                    shutil.rmtree(runs.folder / "out.miq.journal", ignore_errors=True)
            elif code is not None:
                wrong.append(f"exit code {code} without an output: {said[-300:]}")
                break
        code, said = runs.killed_after(600)
        if code != 0 or digest(runs.out) != expected:
            wrong.append(f"the last run: exit code {code} {said[-300:]}")
        left = [item.name for item in Path(name).iterdir() if item.name.endswith((".tmp", ".journal"))]
        if left:
            wrong.append(f"left behind: {left}")
    for line in wrong:
        print(line)
    print(f"{kills} kills, {finished + 1} runs reached their end, {len(wrong)} wrong; a run alone takes {whole:.1f} s; {time.monotonic() - start:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
