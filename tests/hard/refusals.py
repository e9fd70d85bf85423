"""Does every refusal matter? Each check of the readers is switched off in turn, and a test must fail for it.

    refusals.py --work FOLDER [--rooms formats,model,converters,evaluate] [--jobs 2] [--only WORD] [--list]

The sources are copied to FOLDER/tree; there every `if (CONDITION) throw …Error(…)`, or a call of a function that throws (refuse, fail,
fault, reject), becomes `if ((CONDITION) && !off(N)) …`, in the readers of all rooms. One build then holds all mutants: the variable
MIQ_MUTANT chooses which check is off. Each test of the rooms named runs once alone to learn which checks it reaches with a true condition;
a mutant of these rooms needs only those. Results are kept in FOLDER/results.json under the check's file and text, so that a run that was
stopped goes on. Exit code 1 where one survives.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HEADER = """#pragma once
#include <cstdio>
#include <cstdlib>
namespace miq_mutants {
inline bool off(int id) {
  static const char* chosen = std::getenv("MIQ_MUTANT");
  static const char* log = std::getenv("MIQ_MUTANT_LOG");
  if (log) {
    static bool seen[10000];
    if (!seen[id]) {
      seen[id] = true;
      if (std::FILE* file = std::fopen(log, "a")) {
        std::fprintf(file, "%d\\n", id);
        std::fclose(file);
      }
    }
  }
  return chosen && std::atoi(chosen) == id;
}
}  // namespace miq_mutants
"""
# Checks that no file of a size that tests can make comes to, and those behind another that already refuses.
UNREACHABLE = {
    "more than four thousand million": "needs 2^32 values",
    "(!Json::sax_parse(first, last, this))": "the parser throws through parse_error()",
    "zstd could not compress": "a fault of the library, in the writer",
    "the buffer for a packed tensor has the wrong size": "a fault of ours, checked by decode() before",
    "begins within an element of its storage": "views of legacy files begin at whole elements",
    "(token.id < 0 || token.id > kMaxTokenId)": "token_id() of tokenizer.json and the length of a GGUF's list keep ids in range before",
    "more than \" + std::to_string(kMostRows) + \" rows": "needs five million rows",
    "cannot be given its final name": "a failing system call: tests/hard/faults.py makes them",
    "cannot be cut to its": "a failing system call: tests/hard/faults.py makes them",
    "a tensor's offset is too large": "an offset inside a storage never is, added to the view's",
}

# Files that read bytes of strangers, by room; the others refuse what a program of ours gave them.
READERS = {
    "formats": "container_layout container_read gguf gguf_blocks journal json pickle pickle_build pickle_json pickle_objects pickle_read safetensors torch_file "
               "torch_tensor wrong_file zip tensor tensor_ggml tensor_zstd tensor_bitmask packed_layout packed_unpack packed_decode compressed_file".split(),
    "model": "bpe bpe_tokenizer added_tokens config config_decoder config_fields config_hugging_face gguf_tokenizer json_tokenizer sentencepiece_proto "
             "sentencepiece_tokenizer model_container model architecture architecture_llama architecture_opt architecture_qwen".split(),
    "converters": "assemble byte_level_json gguf_config gguf_model hub_cache hugging_face_config open_model sidecar slicegpt slicegpt_open torch_checkpoint "
                  "torch_module weight_files weight_index".split(),
    "evaluate": "report_read report_fields texts zeroshot_tasks".split(),
}  # fmt: skip
# Tests of these rooms that compute and read nothing: they take longest to build and to run.
DROPPED = ("model/bf16_backward model/bf16 model/device_form model/device model/forward model/generate model/staged_pass model/row_product model/sliced "
           "converters/lattice converters/recognise converters/encode").split()  # fmt: skip
REFUSAL = re.compile(r"throw (?:Format|Usage)?Error\(|(?:[\w]+(?:\.|->))?(?:refuse|fail|fault|reject|refuse_type)\(")


def closing(text, opened):
    """The place of the bracket that closes the one at `opened`; strings and characters are stepped over."""
    depth, at = 0, opened
    while at < len(text):
        if text.startswith('R"(', at):
            at = text.index(')"', at) + 1
        elif text[at] in "\"'" and not (text[at] == "'" and text[at - 1].isdigit()):
            quote, at = text[at], at + 1
            while text[at] != quote:
                at += 2 if text[at] == "\\" else 1
        elif text[at] in "({[":
            depth += 1
        elif text[at] in ")}]":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return -1


def after_initialiser(condition):
    """Where the condition itself begins: behind the semicolon of `if (INITIALISER; CONDITION)`."""
    at = 0
    while at < len(condition):
        if condition[at] in "({[\"'":
            if condition[at] in "({[":
                at = closing(condition, at)
            elif not (condition[at] == "'" and condition[at - 1].isdigit()):
                quote, at = condition[at], at + 1
                while condition[at] != quote:
                    at += 2 if condition[at] == "\\" else 1
        elif condition[at] == ";":
            return at + 1
        at += 1
    return 0


def mutate(text, path, checks):
    """`text` with every conditional refusal behind a switch; each is appended to `checks`."""
    edits = []
    for found in re.finditer(r"\bif \(", text):
        opened = found.end() - 1
        closed = closing(text, opened)
        rest = text[closed + 1 : closed + 400]
        body = re.match(r"\s*\{?\s*(?://[^\n]*\n\s*)*", rest)
        if closed < 0 or not REFUSAL.match(rest, body.end()):
            continue
        condition = text[opened + 1 : closed]
        start = after_initialiser(condition)
        last = condition[start:].strip()
        if re.match(r"(?:const )?(?:auto|int|std::\w+|char)\b[^=!<>()]*=[^=]|(?:const )?[\w:]+[ *&]+\w+ = ", last):
            continue  # a declaration is its own condition
        line = text.count("\n", 0, opened) + 1
        checks.append({"file": path, "line": line, "text": " ".join((text[opened:closed + 1] + rest[: rest.find("\n", body.end())]).split())[:200]})  # fmt: skip
        number = len(checks) - 1
        edits.append((opened + 1 + start, closed, f" ({last}) && !miq_mutants::off({number})" if start else f"({last}) && !miq_mutants::off({number})"))
    for begin, end, new in reversed(edits):
        text = text[:begin] + new + text[end:]
    return text


def make_tree(arguments):
    tree = arguments.work / "tree"
    tree.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    checks = []
    dropped = {f"tests/{test}_test.cc" for test in DROPPED}
    readers = {f"{room}/{reader}.cc" for room in READERS for reader in READERS[room]}
    for name in sorted(filter(None, listed)):
        source, target = ROOT / name, tree / name
        if not source.is_file() or name in dropped:
            target.unlink(missing_ok=True)
            continue
        content = source.read_bytes()
        if name in readers:
            content = (f'#include "{arguments.work}/mutants.h"\n' + mutate(content.decode(), name, checks)).encode()
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(source.stat().st_mode)
    for link in (".deps",):
        if (ROOT / link).exists() and not (tree / link).exists():
            (tree / link).symlink_to((ROOT / link).resolve())
    header = arguments.work / "mutants.h"
    if not header.exists() or header.read_text() != HEADER:
        header.write_text(HEADER)
    return tree, checks


def build(arguments, tree):
    # As the preset release is built in any checkout, so that ccache knows what was not changed.
    folder = tree / "build" / "release"
    os.environ |= {"CCACHE_BASEDIR": str(tree), "CCACHE_NOHASHDIR": "1"}
    subprocess.run(["cmake", "--preset", "release"], cwd=tree, check=True, stdout=subprocess.DEVNULL)
    targets = [f"{room}_tests" for room in arguments.rooms]
    subprocess.run(["cmake", "--build", folder, "--target", *targets, "-j", str(arguments.jobs)], check=True, stdout=subprocess.DEVNULL)
    return [folder / "tests" / target for target in targets]


def run(program, test, environment):
    try:
        return subprocess.run([program, f"--gtest_filter={test}"], env=os.environ | environment, capture_output=True, timeout=120, check=False).returncode
    except subprocess.TimeoutExpired:
        return -1


def tests_of(program):
    names, suite = [], ""
    for line in subprocess.run([program, "--gtest_list_tests"], check=True, capture_output=True, text=True).stdout.splitlines():
        if line.startswith("  "):
            names.append((program, suite + line.split("#")[0].strip()))
        else:
            suite = line.split("#")[0].strip()
    return names


def reach(tests, work, jobs):
    """For each check the tests (program, name) that come to it with a true condition. Kept while the program is the same."""
    reached, kept = {}, work / "reached.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}

    def learn(item):
        number, (program, name) = item
        key, built = f"{program.name} {name}", program.stat().st_mtime
        if known.get(key, {}).get("built") == built:
            return program, name, known[key]["code"], known[key]["ids"]
        log = work / f"reached{number}"
        log.unlink(missing_ok=True)
        code = run(program, name, {"MIQ_MUTANT_LOG": str(log)})
        ids = [int(line) for line in log.read_text().split()] if log.exists() else []
        log.unlink(missing_ok=True)
        known[key] = {"built": built, "code": code, "ids": ids}
        return program, name, code, ids

    with ThreadPoolExecutor(jobs) as pool:
        for program, name, code, ids in pool.map(learn, enumerate(tests)):
            if code != 0:
                print(f"{name} fails without any mutant: left out", flush=True)
                continue
            for check in ids:
                reached.setdefault(check, []).append((program, name))
    kept.write_text(json.dumps(known))
    return reached


def judge(arguments, checks, reached):
    kept = arguments.work / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}

    def outcome(number):
        check, tests = checks[number], reached.get(number, [])
        key, names = f"{check['file']}: {check['text']}", [name for _, name in tests]
        # What a test missed stays so while the same tests reach the check; a survivor is tried again, for a test may ask for more now.
        known = results.get(key)
        if known and known["tests"] == names and known["verdict"].startswith("killed"):
            return key, known
        verdict = "survives" if tests else "never reached"
        for program, name in tests:
            if run(program, name, {"MIQ_MUTANT": str(number)}) != 0:
                verdict = f"killed by {name}"
                break
        return key, {"verdict": verdict, "line": check["line"], "tests": names}

    rooms = tuple(f"{room}/" for room in arguments.rooms)
    wanted = [number for number, check in enumerate(checks) if check["file"].startswith(rooms) and arguments.only in check["file"] + check["text"]]
    alive = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for number, (key, result) in zip(wanted, pool.map(outcome, wanted)):
            results[key] = result
            if not result["verdict"].startswith("killed") and not any(text in checks[number]["text"] for text in UNREACHABLE):
                alive.append((checks[number], result["verdict"]))
            if number % 20 == 0:
                kept.write_text(json.dumps(results, indent=1))
    kept.write_text(json.dumps(results, indent=1))
    for check, verdict in alive:
        print(f"{check['file']}:{check['line']}: {verdict}: {check['text']}")
    for room in rooms:
        mine = [number for number in wanted if checks[number]["file"].startswith(room)]
        killed = sum(results[f"{checks[n]['file']}: {checks[n]['text']}"]["verdict"].startswith("killed") for n in mine)
        left = sum(check["file"].startswith(room) for check, _ in alive)
        print(f"{room[:-1]}: {len(mine)} refusals, {killed} killed, {len(mine) - killed - left} that no test's file can reach, {left} not killed")
    return len(alive)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", required=True, type=lambda text: Path(text).resolve())
    parser.add_argument("--rooms", default=list(READERS), type=lambda text: text.split(","))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    tree, checks = make_tree(arguments)
    if arguments.list:
        for check in checks:
            print(f"{check['file']}:{check['line']}: {check['text']}")
        print(len(checks), "refusals")
        return 0
    tests = [test for program in build(arguments, tree) for test in tests_of(program)]
    reached = reach(tests, arguments.work, arguments.jobs)
    return 1 if judge(arguments, checks, reached) else 0


if __name__ == "__main__":
    sys.exit(main())
