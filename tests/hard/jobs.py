"""The commands that the hard tests run, each in a folder of its own, and what must stand there afterwards.

A micro model (two layers of 32) makes a run short enough to be repeated for every system call that it makes.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "zoo"))
from zoo import Model  # noqa: E402


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_digest(folder):
    return {item.name: digest(item) for item in sorted(folder.iterdir())}


class Job:
    """One command. `old` lies under the output's name before it runs and must be there, whole, whenever the new one is not."""

    name = ""
    output = ""
    resume = ()

    def __init__(self, tools, base):
        self.tools, self.base = tools, base

    def prepare(self, folder):
        folder.mkdir(parents=True)
        for name in self.inputs:
            source = self.base / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / name)
        self.put_old(folder)

    def put_old(self, folder):
        (folder / self.output).write_bytes(b"an older output")

    def state(self, folder):
        """'old', 'new', or what is wrong with the output."""
        path = folder / self.output
        if not path.exists():
            return "gone"
        found = self.content(path)
        return "old" if found == self.old else "new" if found == self.new else "neither the old output nor the new one"

    def content(self, path):
        return digest(path)

    def arguments(self, again=False):
        return [f"{self.tools}/{self.command[0]}", *self.command[1:], "--threads", "1", *(self.resume if again else ())]

    def run(self, folder, environment=None, again=False, timeout=120):
        return subprocess.run(
            self.arguments(again), cwd=folder, env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")} | (environment or {}),
            capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
        )  # fmt: skip

    def learn(self, folder):
        """Runs the job without any fault; its output is what all others must give."""
        self.prepare(folder)
        self.old = self.content(folder / self.output)
        done = self.run(folder)
        if done.returncode not in (0, 3):
            sys.exit(f"{self.name} fails without any fault: {done.stderr}")
        self.code = done.returncode
        self.new = self.content(folder / self.output)

    def rubbish(self, folder):
        """What a run that was not killed must not leave behind."""
        return [item.name for item in folder.iterdir() if item.name.endswith(".tmp")]


class Convert(Job):
    name, output, inputs = "convert", "out.miq", ("model",)
    command = ("convert-checkpoint", "model", "-o", "out.miq")


class Export(Job):
    name, output, inputs = "export", "folder", ("dense.miq",)
    command = ("convert-checkpoint", "dense.miq", "-o", "folder", "--to", "hf")

    def put_old(self, folder):
        # A folder of an earlier export is replaced; any other is refused.
        shutil.copytree(self.base / "exported", folder / "folder")
        (folder / "folder" / "config.json").write_text("{}")

    def content(self, path):
        return folder_digest(path)


class Compress(Job):
    name, output, inputs = "compress", "out.miq", ("dense.miq", "text.txt")
    resume = ("--resume",)
    options = ("--documents", "whole", "--sampling", "in-order", "--nsamples", "4", "--seqlen", "32", "--dtype", "float32")
    command = ("miq-compress", "dense.miq", "text.txt", "-o", "out.miq", *options, "--method", "sparsegpt", "--wbits", "4")

    def rubbish(self, folder):
        # The journal stays for --resume, and only where there is no result yet.
        left = super().rubbish(folder)
        return left + (["out.miq.journal"] if (folder / "out.miq.journal").exists() and self.state(folder) == "new" else [])


class CompressMi(Compress):
    name = "compress-mi"
    command = (*Compress.command[:-3], "mi", "--target-avg-bits", "4", "--group-size", "16")


class Evaluate(Job):
    name, output, inputs = "evaluate", "report.json", ("dense.miq", "text.txt")
    command = ("run-eval", "dense.miq", "--dataset", "text=text.txt", "--seqlen", "32", "--windows", "4", "--metrics", "ppl,params",
               "--output", "report.json", "--html", "report.html", "--cache", "cache", "--scratch", ".")  # fmt: skip

    def content(self, path):
        # Times differ from run to run; what was measured does not.
        text = path.read_text()
        if not text.startswith("{"):
            return text
        report = json.loads(text)
        return {"perplexity": report["models"][0]["perplexity"], "parameters": report["models"][0]["parameters"]}


JOBS = (Convert, Export, Compress, CompressMi, Evaluate)


def make_base(tools, base):
    """A model's folder, its container, a text, and an exported folder."""
    model = Model()
    model.config["num_hidden_layers"] = 2
    (base / "model").mkdir(parents=True)
    for name, content in model.folder().items():
        (base / "model" / name).write_bytes(content)
    (base / "text.txt").write_text("".join(f"Sentence number {i * i} says little, but says it well.\n" for i in range(100)))
    for arguments in (["model", "-o", "dense.miq"], ["dense.miq", "-o", "exported", "--to", "hf"]):
        subprocess.run([f"{tools}/convert-checkpoint", "--quiet", *arguments], cwd=base, check=True)
