"""Compares zero-shot accuracies and log-likelihoods with those of lm-evaluation-harness, item by item.

    compare_zeroshot.py RUN_EVAL MODEL_FOLDER [--items 16] [--seed 1]

Makes items of the seven published tasks in their published fields out of words of its own, evaluates them with the harness' own task
definitions pointed at the files (HFLM, float32), and with run-eval. Every accuracy, length-normalised accuracy and standard error must be
equal, every choice's log-likelihood within 1e-3. Exits with 77 (skipped, for CTest) where lm_eval or the model is missing.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

SKIP = 77
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SUBJECTS = "the cat|a dog|Lily|Tom|the old man|his mom|the little bird|Ben's sister|a big, red ball|Zoë|李明|the fish".split("|")
VERBS = "sees|likes|wants to play with|gives|runs to|finds|is afraid of|says \"hi\" to|puts|was looking for".split("|")
OBJECTS = "the tree|a toy|the water|some bread|her friends|the box|3 apples|the sun|a café|the park|everything".split("|")
ENDS = "because it is fun|when it rains|and goes home|in the morning|very fast|with a smile|to help|—but not today".split("|")


def sentence(rng, ends=True):
    words = [rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(OBJECTS)] + ([rng.choice(ENDS)] if ends and rng.random() < 0.7 else [])
    return " ".join(words)


def passage(rng, sentences):
    return " ".join((text := sentence(rng))[0].upper() + text[1:] + rng.choice([".", "!", ".", "?"]) for _ in range(sentences))


def piqa(rng):
    return {"goal": sentence(rng) + rng.choice(["", ".", " ", "?\n"]), "sol1": passage(rng, 1), "sol2": passage(rng, rng.randint(1, 2)), "label": rng.randrange(2)}


def boolq(rng):
    return {"passage": passage(rng, rng.choice([1, 1, 4, 4, 9, 60])), "question": sentence(rng), "label": rng.randrange(2)}


def hellaswag(rng):
    clean = lambda: rng.choice(["", "", "[header] ", " [title] ", "[step] ", "  ", "[substeps] a  b "])
    return {"activity_label": rng.choice(["Playing ball", "Cooking", " Gardening "]), "ctx_a": clean() + passage(rng, rng.randint(1, 3)),
            "ctx_b": rng.choice(["", "they", "ÉLAN and the", "then he [x] "]), "endings": [clean() + sentence(rng) + "." for _ in range(4)],
            "label": str(rng.randrange(4))}


def winogrande(rng):
    first, second = rng.sample(SUBJECTS, 2)
    if rng.random() < 0.1:
        second += " "
    return {"sentence": f"{passage(rng, 1)} {first} and {second} met, so _{rng.choice([' ', '  ', ' . '])}{rng.choice(VERBS)} {rng.choice(OBJECTS)}.",
            "option1": first, "option2": second, "answer": rng.choice("12")}


def labelled(rng, most=5):
    count = rng.randint(3, most)
    labels = list(rng.choice(["ABCDE", "12345"])[:count])
    texts = [rng.choice([sentence(rng), rng.choice(OBJECTS), rng.choice(ENDS)]) for _ in range(count)]
    if rng.random() < 0.2:
        texts[1] = texts[0]  # a tie
    return {"choices": {"text": texts, "label": labels}, "answerKey": rng.choice(labels)}


def arc(rng):
    return {"question": passage(rng, rng.randint(1, 2)), **labelled(rng)}


def openbookqa(rng):
    return {"question_stem": sentence(rng) + rng.choice(["", "", " "]), **labelled(rng, 4)}


TASKS = {"boolq": boolq, "piqa": piqa, "hellaswag": hellaswag, "winogrande": winogrande, "arc_easy": arc, "arc_challenge": arc, "openbookqa": openbookqa}
DEFINITIONS = {"boolq": "super_glue/boolq/default.yaml", "piqa": "piqa/piqa.yaml", "hellaswag": "hellaswag/hellaswag.yaml",
               "winogrande": "winogrande/default.yaml", "arc_easy": "arc/arc_easy.yaml", "arc_challenge": "arc/arc_challenge.yaml",
               "openbookqa": "openbookqa/openbookqa.yaml"}


def write_tasks(folder, items, seed):
    for name, make in TASKS.items():
        rng = random.Random(f"{seed} {name}")
        os.makedirs(f"{folder}/zeroshot/{name}")
        rows = [make(rng) for _ in range(items)]
        for kind in ("harness", "validation"):
            with open(f"{folder}/zeroshot/{name}/{kind}.jsonl", "w", encoding="utf-8") as file:
                for i, row in enumerate(rows):
                    if name == "boolq" and kind == "validation" and i % 2:  # the original's field
                        row = {**row, "answer": bool(row["label"])}
                        del row["label"]
                    file.write(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n")


def harness(folder, model_folder, names):
    import lm_eval
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks._yaml_loader import load_yaml

    tasks = []
    for name in names:
        config = load_yaml(os.path.join(os.path.dirname(lm_eval.__file__), "tasks", DEFINITIONS[name]))
        config = {**config, "task": name, "dataset_path": "json", "dataset_name": None, "training_split": None, "test_split": None,
                  "dataset_kwargs": {"data_files": {"validation": f"{folder}/zeroshot/{name}/harness.jsonl"}}}
        tasks.append(config)
    torch.set_num_threads(1)  # faster for so small a model
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(model_folder)  # LlamaTokenizer of transformers 5 does not follow tokenizer.json
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")
    return lm_eval.simple_evaluate(model=lm, tasks=tasks, num_fewshot=0, bootstrap_iters=1, verbosity="ERROR")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run_eval")
    parser.add_argument("model")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    if not os.path.exists(f"{options.model}/config.json"):
        print(f"skipped: no model in {options.model}")
        return SKIP
    try:
        import lm_eval  # noqa: F401
        import lm_eval.models.huggingface  # noqa: F401
    except ImportError as error:
        print(f"skipped: {error}")
        return SKIP
    failures, worst, choices = 0, 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"
        write_tasks(folder, options.items, options.seed)
        done = subprocess.run([options.run_eval, options.model, "--metrics", "zeroshot", "--data-dir", folder, "--item-scores", "--quiet",
                               "--dtype", options.dtype, "-o", f"{folder}/ours.json"], capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stdout, done.stderr)
            return 1
        with open(f"{folder}/ours.json", encoding="utf-8") as file:
            ours = json.load(file)["models"][0]["zeroshot"]
        wanted = harness(folder, options.model, list(TASKS))
    for name in TASKS:
        samples = sorted(wanted["samples"][name], key=lambda sample: sample["doc_id"])
        for scores, sample in zip(ours[name]["log_likelihoods"], samples, strict=True):
            for score, response in zip(scores, sample["filtered_resps"], strict=True):
                difference = abs(score - float(response[0]))
                worst, choices = max(worst, difference), choices + 1
                if difference > 1e-3:
                    failures += 1
                    print(f"{name} {sample['doc_id']}: {score}, the harness has {response[0]}: {json.dumps(sample['doc'])[:300]}")
        for metric in ("acc", "acc_norm"):
            theirs = wanted["results"][name].get(f"{metric},none")
            if (theirs is None) != (metric not in ours[name]):
                failures += 1
                print(f"{name}: {metric} {ours[name].get(metric)}, the harness has {theirs}")
            if theirs is None:
                continue
            error = wanted["results"][name][f"{metric}_stderr,none"]
            print(f"{name:14} {metric:8} {theirs:.4f} ± {error:.4f}   ours {ours[name][metric]:.4f} ± {ours[name][metric + '_stderr']:.4f}")
            if abs(theirs - ours[name][metric]) > 1e-12 or abs(error - ours[name][metric + "_stderr"]) > 1e-12:
                failures += 1
    print(f"{choices} choices, log-likelihoods differ by at most {worst:.2e}; {failures} failures")
    return 1 if failures or choices == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
