"""Compares our token ids with those of the original Python packages, token by token.

    compare_tokenizers.py --program build/release/tests/tokenizer_ids --data ../shared/data [--gguf FILE] [--seed N] [--only NAME]

References: `tokenizers` for tokenizer.json, `sentencepiece` for tokenizer.model, and for the tokenizer of a
GGUF a `tokenizers` pipeline built here as the model's makers define it (transformers' GGUF loader leaves
SmolLM's splitting of digits out). Exits with 77 (skipped, for CTest) where a package or the data is missing.
"""
import argparse
import glob
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import unicodedata

SKIP = 77
try:
    import sentencepiece
    import tokenizers
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(SKIP)

QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def wikitext2(path):
    with open(path, encoding="utf-8", newline="") as file:
        lines = file.read().split("\n")
    assert lines[-1] == ""
    return "\n\n".join("" if line.strip() == "" else line + "\n" for line in lines[:-1])


def corpora(data):
    texts = {"wikitext2": wikitext2(f"{data}/wikitext2/wiki.test.raw")}
    with open(f"{data}/ptb/ptb.test.txt", encoding="utf-8") as file:
        texts["ptb"] = " ".join(line.strip() for line in file)
    for name in ("c4/c4.utf8", "tinystories/tiny.utf8", "wiki/wiki.utf8"):
        with open(f"{data}/{name}", encoding="utf-8", newline="") as file:
            texts[name] = file.read()
    return {name: text.encode() for name, text in texts.items()}


NASTY = [
    "", " ", "  ", "\n", "\r\n\r\n", "\t \n  x", "a  b   c    d", " leading", "trailing   ", "\u00a0\u2003\u3000 x\u2028y\u0085z",
    "don't I'LL we'Ve it'\u017f 'S '\u017fx they're 'rE 'd'm'T''s", "''s 's", "x'll'll", "1234567890 12 123 1234 ½ ⅷ ² ٣٤٥ 一二三",
    "emoji 😀👨\u200d👩\u200d👧\u200d👦🏳\ufe0f\u200d🌈 🇨🇳👍🏽", "中文字符，没有空格。日本語テキスト 한국어 텍스트",
    "e\u0301 \u00e9 n\u0303 \u1e9b\u0323 \u212b \u2126 \ufb01 \u1100\u1161\u11a8",
    "a\u0300\u0316\u0301\u0327b \u0344 \u0958 \u2adc \u0f77", "\x00\x01\x02\x7f\x80\x9f\ufeff\ufffe\uffff\U0010ffff",
    "<s></s><unk> <s> </s> <|endoftext|><|im_start|>user\n<|im_end|> <pad> <0x0A> <0x41>",
    "<|start_story|>Once <|end_story|>", "▁▁ ▁x x▁ Ġ Ċ",
    " <unk>", "▁<unk>", "<unk>", "a<unk>b <|start_story|> c", "\u202etext\u202c \u00ad\u200b\u2060",
    "https://example.com/a?b=c&d=%20#e_f-g", "def f(x):\n    return x**2  # comment\n\n\n\n\tif a != b:\r\n        pass", "a" * 3000, " " * 3000,
    "\n" * 500 + "x", "1" * 999, "ab" * 2000, "😀" * 300, "\u0301" * 300, "x\u0316\u0301" * 200, "!" * 777 + "\n\n", "...\n\n!!\r\r x\n \n y",
]


def random_text(rng, tokens):
    pools = [
        lambda: chr(rng.randrange(0x20, 0x7F)), lambda: rng.choice(" \t\n\r\u00a0\u3000\x0b\x0c\x1c\x85"), lambda: " " * rng.randrange(1, 6),
        lambda: chr(rng.randrange(0x80, 0x250)), lambda: chr(rng.randrange(0x300, 0x370)), lambda: chr(rng.randrange(0x370, 0x1000)),
        lambda: chr(rng.randrange(0x1000, 0x3100)), lambda: chr(rng.randrange(0x4E00, 0xA000)), lambda: chr(rng.randrange(0xAC00, 0xD7A4)),
        lambda: chr(rng.randrange(0xE000, 0x10000)), lambda: chr(rng.randrange(0x1F000, 0x1FA00)), lambda: rng.choice(tokens),
        lambda: rng.choice(["'s", "'LL", "'ve", "'\u017f", "12", "\r\n", "\n\n", "the ", " and", "Hello", "\u0301\u0316", "\u1112\u1161\u11ab"]),
    ]
    weights = [rng.random() ** 2 for _ in pools]
    return "".join(rng.choices(pools, weights)[0]() for _ in range(rng.randrange(1, 120)))


def in_old_unicode(text):
    return "".join(c for c in text if c.isascii() or unicodedata.ucd_3_2_0.category(c) != "Cn")


def random_bytes(rng, tame):
    text = bytearray(tame(random_text(rng, ["x"])).encode())
    for _ in range(rng.randrange(1, 8)):
        place = rng.randrange(len(text) + 1)
        text[place:place] = bytes(rng.choice([[0xC0, 0x80], [0xED, 0xA0, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xE2, 0x82], [0xF0, 0x9F, 0x98],
                                              [0xFF], [0x80], [0xF8, 0x88], [rng.randrange(256)]]))
    return bytes(text)


def ours(program, path, texts, folder):
    texts_path, out_path = f"{folder}/texts", f"{folder}/ids"
    with open(texts_path, "wb") as file:
        for text in texts:
            file.write(struct.pack("<Q", len(text)) + text)
    done = subprocess.run([program, path, texts_path, out_path], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{path}: {done.stderr}")
    with open(out_path, "rb") as file:
        blob = file.read()
    records, at = [], 0
    while at < len(blob):
        (length,) = struct.unpack_from("<Q", blob, at)
        records.append(blob[at + 8 : at + 8 + length])
        at += 8 + length
    assert len(records) == 3 * len(texts)
    unpack = lambda record: list(struct.unpack(f"<{len(record) // 4}i", record))
    return [(unpack(records[i]), unpack(records[i + 1]), records[i + 2]) for i in range(0, len(records), 3)], done.stderr.strip()


class HuggingFace:
    def __init__(self, tokenizer):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
        added = tokenizer.get_added_tokens_decoder()
        self.special = [token.content for token in added.values()]
        self.left_out = {id for id, token in added.items() if token.special}
        self.altered = {id for id, token in added.items() if token.normalized}

    def ids(self, text):
        text = text.decode("utf-8", "replace")
        return self.tokenizer.encode(text).ids, self.tokenizer.encode(text, add_special_tokens=False).ids

    def text(self, ids):
        # tokenizers 0.23 gives an added token that is matched in normalised text back in its normalised form,
        # and fails to leave it out when special: no text to compare.
        ids = [id for id in ids if id not in self.left_out]
        return None if self.altered.intersection(ids) else self.tokenizer.decode(ids)


class SentencePiece:
    def __init__(self, path):
        self.model = sentencepiece.SentencePieceProcessor(model_file=path)
        self.tokens = [self.model.id_to_piece(i) for i in range(self.model.get_piece_size())]
        self.special = ["<s>", "</s>", "<unk>"]

    def ids(self, text):
        ids = self.model.encode(text)
        return [self.model.bos_id()] + ids, ids

    def text(self, ids):
        return self.model.decode(ids)


def from_gguf(path, folder):
    import gguf

    fields = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items() if key.startswith("tokenizer.")}
    with open(f"{folder}/tokenizer.gguf.json", "w") as file:
        json.dump(fields, file)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    assert fields["tokenizer.ggml.pre"] == "smollm"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == 3])
    return HuggingFace(tokenizer)


def variants(data):
    """tokenizer.json files that the data does not hold: other pre-tokenizers, normalisers and flags on its vocabularies."""
    with open(f"{data}/models/opt-small/tokenizer.json", encoding="utf-8") as file:
        opt = json.load(file)
    with open(f"{data}/models/story/tokenizer.json", encoding="utf-8") as file:
        story = json.load(file)

    def changed(base, **changes):
        copy = json.loads(json.dumps(base))
        for key, value in changes.items():
            if key in ("ignore_merges", "fuse_unk", "byte_fallback", "unk_token"):
                copy["model"][key] = value
            else:
                copy[key] = value
        return copy

    split = lambda regex: {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}, BYTE_LEVEL]}
    digits = lambda one: {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": one}, dict(BYTE_LEVEL, use_regex=True)]}
    metaspace = lambda scheme, cut: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}
    added = [{"id": -1, "content": content, "single_word": word, "lstrip": left, "rstrip": right, "normalized": norm, "special": special}
             for content, word, left, right, norm, special in [
                 ("<left>", False, True, False, False, True), ("<right>", False, False, True, True, False),
                 ("the", True, False, False, True, False), ("<both>", False, True, True, False, False),
                 ("é", False, False, False, True, False), ("<lef", False, False, False, False, True), ("und", True, True, True, False, False)]]

    def numbered(base):  # the original gives a known token its id and numbers new ones on from the vocabulary's end
        vocabulary, out = base["model"]["vocab"], list(base["added_tokens"])
        fresh = len(vocabulary)
        for token in added:
            known = vocabulary.get(token["content"])
            out.append(dict(token, id=fresh if known is None else known))
            fresh += known is None
        return out

    yield "opt + llama-3 pattern, ignore_merges", changed(opt, pre_tokenizer=split(LLAMA3), ignore_merges=True)
    yield "opt + qwen2 pattern, NFC", changed(opt, pre_tokenizer=split(QWEN2), normalizer={"type": "NFC"})
    yield "opt + NFKC", changed(opt, normalizer={"type": "NFKC"})
    yield "opt + NFD", changed(opt, normalizer={"type": "Sequence", "normalizers": [{"type": "NFD"}]})
    yield "opt + smollm digits", changed(opt, pre_tokenizer=digits(True))
    yield "opt + runs of digits", changed(opt, pre_tokenizer=digits(False))
    yield "opt + prefix space, NFC, added tokens", changed(opt, pre_tokenizer=dict(BYTE_LEVEL, add_prefix_space=True, use_regex=True),
                                                      added_tokens=numbered(opt), normalizer={"type": "NFC"})
    yield "story + added tokens", changed(story, added_tokens=numbered(story))
    yield "story, no byte fallback, fused unknown", changed(story, byte_fallback=False)
    yield "story, no byte fallback, unknown one by one", changed(story, byte_fallback=False, fuse_unk=False)
    yield "story, unknown vanish", changed(story, byte_fallback=False, unk_token=None)
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            step = metaspace(scheme, cut)
            yield f"story + metaspace {scheme} {cut}", changed(story, normalizer=None, pre_tokenizer=step, decoder=step)


def compare(name, reference, program, path, texts, folder):
    results, note = ours(program, path, [text for _, text in texts], folder)
    started, failures, tokens = time.time(), 0, 0
    for (label, text), (with_special, without, decoded) in zip(texts, results):
        wanted, wanted_without = reference.ids(text)
        tokens += len(wanted)
        problem = None
        if with_special != wanted or without != wanted_without:
            got, want = (with_special, wanted) if with_special != wanted else (without, wanted_without)
            place = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            problem = f"ids differ at {place}: ours {got[max(0, place - 3):place + 5]}, original {want[max(0, place - 3):place + 5]}"
        else:
            text_back = reference.text(wanted_without)
            if text_back is not None and "\ufffd" not in text_back and decoded.decode("utf-8", "replace") != text_back:
                problem = f"decoded text differs: {decoded[:80]!r}, original {text_back[:80]!r}"
        if problem:
            failures += 1
            if failures <= 5:
                print(f"  {name}: {label}: {text[:120]!r}: {problem}")
    print(f"{'FAILED' if failures else 'equal '} {name}: {len(texts)} texts, {tokens} tokens, {failures} differ; {note}; "
          f"original {time.time() - started:.1f} s", flush=True)
    return failures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--gguf", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", type=int, default=500, help="random texts per tokenizer")
    parser.add_argument("--only", default="", help="tokenizers whose name contains this")
    arguments = parser.parse_args()
    if not os.path.isdir(f"{arguments.data}/models/story"):
        print(f"skipped: no data in {arguments.data}")
        return SKIP
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = list(corpora(arguments.data).items())
        rng = random.Random(arguments.seed)

        def check(name, reference, path, big):
            if arguments.only not in name:
                return
            words = [*reference.special * 20, *rng.choices(reference.tokens, k=200)]
            texts = [(f"nasty {i}", text.encode("utf-8", "surrogatepass")) for i, text in enumerate(NASTY)]
            # The normalisers' tables in `tokenizers` are older than ours: characters new since then are left out.
            tame = in_old_unicode if "NF" in name else str
            texts += [(f"random {i}", tame(random_text(rng, words)).encode()) for i in range(arguments.random)]
            texts += [(f"bytes {i}", random_bytes(rng, tame)) for i in range(arguments.random // 4)]
            texts += [(label, text) for label, text in whole] if big else [(label, text[:100000]) for label, text in whole]
            nonlocal failures
            failures += compare(name, reference, arguments.program, path, texts, folder)

        for model in ("story", "opt-small"):
            path = f"{arguments.data}/models/{model}/tokenizer.json"
            check(model, HuggingFace(tokenizers.Tokenizer.from_file(path)), path, True)
        path = f"{arguments.data}/tokenizers/llama2/tokenizer.model"
        check("llama2", SentencePiece(path), path, True)
        if os.path.exists(arguments.gguf):
            check("smollm2", from_gguf(arguments.gguf, folder), f"{folder}/tokenizer.gguf.json", True)
        else:
            print(f"left out: the tokenizer of SmolLM2 ({arguments.gguf or '--gguf'} is not there)")
        for name, content in variants(arguments.data):
            path = f"{folder}/tokenizer.json"
            with open(path, "w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False)
            check(name, HuggingFace(tokenizers.Tokenizer.from_file(path)), path, False)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
