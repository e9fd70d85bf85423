"""Folders whose parts lie: the index of shards, config.json, and what lies beside them.

Paths: transformers#46097 and #47176, diffusers#14175. Shards: vllm#34930, sglang#32279, mlx-vlm#1464 and #1827.
Configs: ik_llama.cpp#2291 and llama.cpp#8676 (rope), LMFlow#627 (vocabulary).
"""

import json

from zoo import Entry, Fifo, Link, Model, encoded, safetensors

INDEX = "model.safetensors.index.json"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NORM = "model.norm.weight"


def halves():
    tensors = Model().tensors()
    names = list(tensors)
    return {name: tensors[name] for name in names[:5]}, {name: tensors[name] for name in names[5:]}


def sharded(index=None, change=None, **files):
    """A folder in two shards; `change` gets the index's dict, keywords (dots as they are) replace files."""
    first, second = halves()
    content = {"metadata": {"total_size": 0}, "weight_map": {name: ONE for name in first} | {name: TWO for name in second}}
    if change:
        change(content)
    folder = Model().folder(
        **{
            "model.safetensors": None,
            INDEX: encoded(content) if index is None else index,
            ONE: safetensors(first),
            TWO: safetensors(second),
        }
    )
    return {name: value for name, value in (folder | files).items() if value is not None}


def renamed(shard):
    """The second shard under another name in the index; the file keeps its own."""
    return sharded(change=lambda content: content["weight_map"].update({name: shard for name in halves()[1]}))


PATHS = [
    ("up", "../outside.safetensors", "the folder above"),
    ("far_up", "../" * 40 + "etc/shadow.safetensors", "the root"),
    ("within_up", "sub/../../outside.safetensors", "up in the middle"),
    ("absolute", "/etc/passwd.safetensors", "absolute"),
    ("folder", f"sub/{TWO}", "a folder below"),
    ("here", f"./{TWO}", "the same file by another name"),
    ("backslash", f"..\\{TWO}", "Windows: up"),
    ("unc", f"\\\\server\\share\\{TWO}", "Windows: a server"),
    ("drive", f"C:{TWO}", "Windows: a drive"),
    ("url", f"https://example.org/{TWO}", "the network"),
    ("file_url", f"file:///etc/{TWO}", "the network"),
    ("zero", f"model\0{TWO}", "C strings end there"),
    ("hidden", ".hidden.safetensors", "a dot file"),
    ("dots", "..", "the folder above"),
    ("empty", "", "the folder itself"),
    ("pickle", "model.bin", "a pickle by way of the safetensors index"),
    ("python", "model.py", "code"),
    ("no_suffix", "model", "another kind of file"),
    ("suffix_only", ".safetensors", "a dot file"),
    ("long", "x" * 5000 + ".safetensors", "ENAMETOOLONG"),
    ("newline", "a\nb.safetensors", "a line of its own in the message"),
    ("escape", "\x1b[2J.safetensors", "clears the terminal"),
    ("home", "~/x.safetensors", "a shell's home"),
    ("tilde", "~root.safetensors", "a shell's home"),
]


def indexes():
    yield "missing_shard", sharded(**{TWO: None}), f"shard '{TWO}' is missing", "vllm#34930: loads with uninitialised weights"
    yield "stray_shard", sharded(
        **{"model-00003-of-00003.safetensors": safetensors({})}
    ), "model-00003-of-00003.safetensors", "mlx-vlm#1464"
    yield "stray_whole", sharded(
        **{"model.safetensors": safetensors(Model().tensors())}
    ), "model.safetensors", "two checkpoints in one folder"
    yield "stale", sharded(
        change=lambda content: content["weight_map"].update({"model.old.weight": ONE})
    ), "model.old.weight", "mlx-vlm#1827: a stale index"
    yield "not_listed", sharded(change=lambda content: content["weight_map"].pop(NORM)), NORM, "a tensor that only the shard has"
    yield "in_the_other_shard", sharded(
        change=lambda content: content["weight_map"].update({NORM: ONE})
    ), NORM, "the index and the shards disagree"
    first, second = halves()
    yield "in_both_shards", sharded(**{ONE: safetensors(first | {NORM: second[NORM]})}), NORM, "which one counts?"
    yield "shards_swapped", sharded(**{ONE: safetensors(second), TWO: safetensors(first)}), "is missing", "mixed up"
    yield "shard_empty", sharded(**{TWO: b""}), TWO, "an interrupted download"
    yield "shard_cut", sharded(**{TWO: safetensors(second)[:-100]}), "cut short", "an interrupted download"
    yield "shard_is_lfs", sharded(
        **{TWO: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"}
    ), "git lfs pull", "cloned without LFS"
    yield "shard_is_folder", sharded(**{TWO: None, TWO + "/x": b""}), TWO, "a folder in place of a file"
    yield "shard_is_fifo", sharded(**{TWO: Fifo()}), TWO, "opening it waits for ever"
    yield "shard_is_device", sharded(**{TWO: Link("/dev/zero")}), TWO, "endless"
    yield "shard_is_dead_link", sharded(**{TWO: Link("../nowhere")}), TWO, "a link to nothing"
    yield "shard_links_to_itself", sharded(**{TWO: Link(TWO)}), TWO, "ELOOP"
    yield "no_map", sharded(index=b'{"metadata":{}}'), "weight_map", ""
    yield "map_list", sharded(index=b'{"weight_map":[]}'), "weight_map", "another type"
    yield "map_null", sharded(index=b'{"weight_map":null}'), "weight_map", "another type"
    yield "map_empty", sharded(index=b'{"weight_map":{}}'), "", "nothing listed"
    yield "array", sharded(index=b"[]"), INDEX, "another type"
    yield "number", sharded(index=b"7"), INDEX, "another type"
    yield "empty_file", sharded(index=b""), "not valid JSON", "an interrupted download"
    yield "cut", sharded()[INDEX][:-30], "", "an interrupted download"
    yield "not_utf8", sharded(index=b'{"weight_map":{"\xff":"x.safetensors"}}'), "not valid JSON", ""
    yield "shard_number", sharded(index=b'{"weight_map":{"a":1}}'), "is not a string", "another type"
    yield "shard_list", sharded(index=encoded({"weight_map": {"a": [ONE, TWO]}})), "is not a string", "another type"
    yield "name_twice", sharded(
        index=b'{"weight_map":{"a":"%s","a":"%s"}}' % (ONE.encode(), TWO.encode())
    ), "appears twice", "which one counts?"
    yield "map_twice", sharded(index=b'{"weight_map":{},"weight_map":{}}'), "appears twice", "which one counts?"
    yield "deep", sharded(index=b'{"weight_map":' + b'{"a":' * 100_000), "nested deeper", "recursion"
    yield "large", sharded(
        index=b'{"weight_map":{' + b",".join(b'"%d":"%s"' % (i, ONE.encode()) for i in range(20_000)) + b"}}"
    ), "lies beside the shards", "names of nothing"
    yield "many_shards", sharded(
        index=encoded({"weight_map": {str(i): f"model-{i}.safetensors" for i in range(20_000)}})
    ), "lies beside the shards", "names of nothing"
    yield "is_folder", sharded(**{INDEX: None, INDEX + "/x": b""}), INDEX, "a folder in place of a file"
    yield "is_fifo", sharded(**{INDEX: Fifo()}), INDEX, "opening it waits for ever"
    for name, shard, why in PATHS:
        yield "path_" + name, renamed(shard), "", why


CONFIGS = [  # what to put in (None: take out), words, why
    ("no_type", {"model_type": None}, "model_type", ""),
    ("type_number", {"model_type": 5}, "model_type", ""),
    ("type_unknown", {"model_type": "mamba"}, "'mamba'", "another mathematics"),
    ("type_empty", {"model_type": ""}, None, "unknown, but its tensors are llama's"),
    ("type_long", {"model_type": "x" * 1_000_000}, None, "unknown, but its tensors are llama's; the message must not repeat 1 MB"),
    ("type_path", {"model_type": "../../llama"}, None, "a row of a table, not a path"),
    ("quantized", {"quantization_config": {"quant_method": "gptq"}}, "quantized by another tool", "packed integers"),
    ("remote_code_alone", {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, None, "trust_remote_code: never"),
    ("vocabulary_missing", {"vocab_size": None}, "vocab_size", ""),
    ("vocabulary_0", {"vocab_size": 0}, "vocab_size", ""),
    ("vocabulary_negative", {"vocab_size": -256}, "vocab_size", ""),
    ("vocabulary_text", {"vocab_size": "256"}, "vocab_size", ""),
    ("vocabulary_real", {"vocab_size": 256.0}, "vocab_size", ""),
    ("vocabulary_2_63", {"vocab_size": 1 << 63}, "vocab_size", "negative when signed"),
    ("vocabulary_2_64", {"vocab_size": 2**64 + 256}, "vocab_size", "wraps to 256"),
    ("vocabulary_other", {"vocab_size": 257}, "", "the tensors say 256"),
    ("hidden_0", {"hidden_size": 0}, "hidden_size", "division by zero"),
    ("hidden_2_32", {"hidden_size": 1 << 32}, "", "products wrap"),
    ("hidden_odd", {"hidden_size": 33}, "", "no multiple of the heads"),
    ("heads_0", {"num_attention_heads": 0}, "num_attention_heads", "division by zero"),
    ("heads_2_31", {"num_attention_heads": 1 << 31, "head_dim": 1 << 31}, "", "products wrap"),
    ("heads_negative", {"num_attention_heads": -4}, "num_attention_heads", ""),
    ("kv_heads_3", {"num_key_value_heads": 3}, "", "no divisor of the heads"),
    ("kv_heads_0", {"num_key_value_heads": 0}, "num_key_value_heads", "division by zero"),
    ("head_dim_odd", {"head_dim": 7}, "", "rotation wants pairs"),
    ("head_dim_0", {"head_dim": 0}, "head_dim", "division by zero"),
    ("layers_0", {"num_hidden_layers": 0}, "num_hidden_layers", ""),
    ("layers_2_32", {"num_hidden_layers": 2**32}, "num_hidden_layers", "memory for layers that are not there"),
    ("layers_many", {"num_hidden_layers": 100_000}, "", "memory for layers that are not there"),
    ("layers_text", {"num_hidden_layers": "1; rm -rf ."}, "num_hidden_layers", ""),
    ("layers_list", {"num_hidden_layers": [1] * 100_000}, "num_hidden_layers", "the message must not repeat it"),
    ("epsilon_0", {"rms_norm_eps": 0}, "rms_norm_eps", "division by zero"),
    ("epsilon_nan_text", {"rms_norm_eps": "nan"}, "rms_norm_eps", ""),
    ("positions_negative", {"max_position_embeddings": -1}, "max_position_embeddings", ""),
    ("theta_0", {"rope_theta": 0}, "rope_theta", ""),
    ("theta_negative", {"rope_theta": -1.0}, "rope_theta", ""),
    ("rope_unknown", {"rope_scaling": {"rope_type": "yarn2", "factor": 2}}, "yarn2", "ik_llama.cpp#2291: 2916 instead of 5.5"),
    ("rope_no_factor", {"rope_scaling": {"type": "linear"}}, "factor", ""),
    ("rope_factor_0", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor", ""),
    ("rope_text", {"rope_scaling": "linear"}, "", "another type"),
    ("activation", {"hidden_act": "gelu"}, "gelu", "another mathematics"),
    ("unknown_mathematics", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping", "declared, but not used"),
    ("unknown_large", {"attn_secret": ["x"] * 100_000}, "attn_secret", "the message must not repeat it"),
    ("tie_text", {"tie_word_embeddings": "yes"}, "tie_word_embeddings", "another type"),
    ("untied", {"tie_word_embeddings": False}, "lm_head", "the head is not there"),
    ("bos_beyond", {"bos_token_id": 256}, "256", "an index beyond the table"),
    ("eos_text", {"eos_token_id": "</s>"}, "eos_token_id", "another type"),
    ("bos_2_63", {"bos_token_id": 1 << 63}, "", "negative when signed"),
    ("eos_list_2_64", {"eos_token_id": [2**64 - 1]}, "", "an index beyond the table"),
    ("eos_list_of_list", {"eos_token_id": [[1]]}, "eos_token_id", "another type"),
]


def config_texts():
    text = json.dumps(Model().config)
    yield "empty", b"", "not valid JSON", "an interrupted download"
    yield "cut", text[:-10].encode(), "not valid JSON", "an interrupted download"
    yield "array", b"[]", "JSON object", "another type"
    yield "null", b"null", "JSON object", "another type"
    yield "nan", text.replace("1e-05", "NaN").encode(), "not valid JSON", "Python's json reads it"
    yield "infinity", text.replace("1e-05", "Infinity").encode(), "not valid JSON", "Python's json reads it"
    yield "huge_number", text.replace("1e-05", "1e400").encode(), "config.json", "infinite"
    yield "key_twice", text.replace("{", '{"vocab_size": 1, ', 1).encode(), "appears twice", "which one counts?"
    yield "byte_order_mark", b"\xef\xbb\xbf" + text.encode(), "byte order mark", "others refuse it"
    yield "utf16", text.encode("utf-16"), "not valid JSON", "Windows editors"
    yield "zero_byte", text.encode() + b"\0{}", "zero byte", "C strings end there"
    yield "comment", text.replace("{", "{ // tiny\n", 1).encode(), "not valid JSON", "lenient parsers differ"
    yield "deep", text.replace("{", '{"x":' + "[" * 100_000, 1).encode(), "nested deeper", "recursion"
    yield "deep_closed", text.replace(
        "{", '{"x":' + "[" * 5000 + "]" * 5000 + ",", 1
    ).encode(), "nested deeper", "recursion in the destructor"
    yield "web_page", b"<!DOCTYPE html>", "not valid JSON", "a failed download"
    yield "python", b"__import__('os').system('touch canary')", "not valid JSON", "readers that use eval"


def others():
    model = Model()
    yield "no_weights", model.folder(**{"model.safetensors": None}), "no weights", ""
    yield "nothing", {"README.md": b""}, "", "no config.json"
    yield "config_is_folder", model.folder(**{"config.json": None, "config.json/x": b""}), "config.json", "a folder in place of a file"
    yield "config_is_fifo", model.folder(**{"config.json": Fifo()}), "config.json", "opening it waits for ever"
    yield "config_is_device", model.folder(**{"config.json": Link("/dev/zero")}), "config.json", "endless"
    yield "weights_are_device", model.folder(**{"model.safetensors": Link("/dev/zero")}), "model.safetensors", "endless"
    yield "weights_are_fifo", model.folder(**{"model.safetensors": Fifo()}), "model.safetensors", "opening it waits for ever"
    yield "weights_are_folder", model.folder(**{"model.safetensors": None, "model.safetensors/x": b""}), "model.safetensors", ""
    tensors = model.tensors()
    yield "head_differs", model.folder(
        **{"model.safetensors": safetensors(tensors | {"lm_head.weight": ([256, 32], bytes(4 * 256 * 32))})}
    ), "differs", "tied, and stored as something else"
    yield "prefix_of_some", model.folder(
        **{"model.safetensors": safetensors({("module." if i else "") + name: value for i, (name, value) in enumerate(tensors.items())})}
    ), "", "renamed in part"
    yield "both_prefixes", model.folder(
        **{"model.safetensors": safetensors(tensors | {name.removeprefix("model."): value for name, value in tensors.items()})}
    ), "", "everything twice"
    yield "layer_numbers_odd", model.folder(
        **{"model.safetensors": safetensors({name.replace("layers.0", "layers.00"): value for name, value in tensors.items()})}
    ), "", "00 is not 0"


def entries():
    yield Entry("index_control", sharded(), (), inspect=("llama",), why="the folder that all indexes here damage: it must convert")
    for name, files, words, why in indexes():
        if isinstance(files, bytes):
            files = sharded(index=files)
        yield Entry("index_" + name, files, (words,), at="index_" + name, why=why)
    for name, changed, words, why in CONFIGS:
        config = {key: value for key, value in (Model().config | changed).items() if value is not None}
        if words is None:  # read as a Llama's, with a warning
            yield Entry("config_" + name, Model().folder(**{"config.json": encoded(config)}), (), inspect=("llama",), why=why)
        else:
            yield Entry("config_" + name, Model().folder(**{"config.json": encoded(config)}), (words,), at="config_" + name, why=why)
    for name, text, words, why in config_texts():
        yield Entry("config_text_" + name, Model().folder(**{"config.json": text}), (words,), at="config.json", why=why)
    for name, files, words, why in others():
        yield Entry("folder_" + name, files, (words,), at="folder_" + name, why=why)
