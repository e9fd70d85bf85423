"""Pickle streams that no pickler writes: op-codes that are not read, sizes that lie, stacks and memos that are misused, trees
that explode. (hostile_pickle.py holds those that call things.)

Sources: fickling#111, #196 and #317, candle#3617, CVE-2018-20406, cpython#115952, CVE-2026-24747, pickletools.py.
"""

import struct

from pickle_bytes import (
    APPEND,
    APPENDS,
    BUILD,
    DICT,
    EMPTY_TUPLE,
    LIST,
    MARK,
    NONE,
    POP,
    REDUCE,
    SET_ITEM,
    SET_ITEMS,
    TUPLE,
    call,
    framed,
    get,
    glob,
    number,
    pickle,
    put,
    text,
    value,
)
from zoo import CANARY, Entry

TOUCH = "touch " + CANARY
Q = struct.Struct("<Q").pack
EVIL = call("posix system", TOUCH)


def op_codes():
    """What the interpreter does not know, on purpose."""
    texts = {
        "int": b"I42\n",
        "bool": b"I01\n",
        "long": b"L42L\n",
        "float": b"F1e400\n",
        "string": b"S'x'\n",
        "unicode": b"Vx\n",
        "get": b"g0\n",
        "put": b"Np0\n",
        "persid": b"P../../etc/passwd\n",
        "list": b"(l",
        "dict": b"(d",
    }
    for name, body in texts.items():
        yield "text_" + name, pickle(body), "protocols 0 and 1", "eval-like parsing of texts"
    yield "inst", pickle(MARK + text(TOUCH) + b"iposix\nsystem\n"), "0x69", "INST: a call without REDUCE"
    yield "obj", pickle(MARK + glob("posix", "system") + text(TOUCH) + b"o"), "0x6f", "OBJ: a call without REDUCE"
    yield "dup", pickle(NONE + b"2\x86"), "0x32", "DUP: fickling's expansion attacks"
    for code, argument in ((0x82, b"\1"), (0x83, b"\1\0"), (0x84, b"\1\0\0\0")):
        yield f"ext_{code:02x}", pickle(bytes([code]) + argument), f"0x{code:02x}", "EXT: a global by number"
    yield "next_buffer", pickle(b"\x97", 5), "buffer from outside", "out-of-band data"
    yield "readonly_buffer", pickle(NONE + b"\x98", 5), "buffer from outside", "out-of-band data"
    for code in (0x00, 0x21, 0x99, 0xFF):
        yield f"unknown_{code:02x}", pickle(bytes([code])), "is no pickle op-code", "picklescan: scanners stop, the interpreter went on"


def framing():
    whole = pickle(EVIL)
    yield "protocol_0", b"cposix\nsystem\n(S'touch canary'\ntR.", "", "the oldest form has no first byte"
    yield "protocol_0_stated", pickle(NONE, 0), "pickle of protocol 2 to 5", ""
    yield "protocol_1", pickle(NONE, 1), "pickle of protocol 2 to 5", ""
    yield "protocol_6", pickle(NONE, 6), "pickle of protocol 2 to 5", "from the future"
    yield "protocol_255", pickle(NONE, 255), "pickle of protocol 2 to 5", ""
    yield "protocol_twice", pickle(b"\x80\x02" + NONE), "second PROTO", "fickling: duplicate PROTO"
    yield "protocol_within", pickle(LIST + b"\x80\x04" + EVIL + APPEND), "second PROTO", "fickling: misplaced PROTO"
    yield "only_protocol", b"\x80\x02", "", "2 bytes"
    yield "half_a_protocol", b"\x80", "", "1 byte"
    yield "no_stop", whole[:-1], "cut short", "an interrupted download"
    for cut in (5, 20, len(whole) - 5):
        yield f"cut_{cut}", whole[:cut], "cut short", "an interrupted download"
    yield "stop_at_once", b"\x80\x02.", "0 values on the stack", "nothing to return"
    yield "stop_with_two", pickle(NONE + EVIL), "2 values on the stack", "a value that no one sees"
    yield "stop_in_mark", pickle(NONE + MARK), "within a mark", ""
    yield "bytes_behind", pickle(NONE) + b"x", "1 bytes behind", "fickling: trailing data"
    yield "second_pickle", pickle(DICT) + whole, "behind the end", "the second is loaded by the next load()"
    yield "pickle_behind_zip_magic", b"PK\x03\x04" + whole, "", "magic-number bypass"
    yield "newlines_first", b"\n\n" + whole, "", "scanners that strip"
    yield "frame_2_64", framed(NONE, 2**64 - 1), "a frame of 18446744073709551615 bytes", "position + length wraps"
    yield "frame_beyond_file", framed(NONE, 1000), "a frame of 1000 bytes", ""
    yield "frame_too_long_by_one", framed(NONE, 3), "a frame of 3 bytes", "off by one"
    yield "frame_in_frame", framed(b"\x95" + Q(1) + NONE, 10), "frame within a frame", "fickling#317"
    yield "frame_cut_by_text", framed(text("x" * 50), 20), "crosses the end of its frame", "fickling#317: CPython and scanners differ"
    yield "frame_cut_by_length", framed(text("x" * 50), 3), "crosses the end of its frame", "fickling#317: within the length"
    yield "frame_cut_by_global", framed(
        glob("posix", "system") + value((TOUCH,)) + REDUCE, 8
    ), "crosses the end of its frame", "fickling#317"
    yield "frame_too_short", b"\x80\x04\x95" + Q(40) + NONE + b"." + bytes(38), "", "STOP before the frame's end"
    yield "frame_half", b"\x80\x04\x95" + bytes(3), "cut short", ""


def sizes():
    for name, code, width, lengths in (
        ("text", b"X", "<I", (2**32 - 1, 1 << 31)),
        ("text_8", b"\x8d", "<Q", (1 << 63, 2**64 - 1)),
        ("bytes", b"B", "<I", (2**32 - 1,)),
        ("bytes_8", b"\x8e", "<Q", (1 << 63, 2**64 - 1)),
        ("bytearray", b"\x96", "<Q", (1 << 62, 2**64 - 1)),
        ("string", b"T", "<I", (2**32 - 1, 1 << 31)),
        ("short", b"U", "<B", (200,)),
    ):
        for length in lengths:
            yield f"{name}_{length}", pickle(
                code + struct.pack(width, length) + b"abc"
            ), f"takes {length} bytes", "memory for what is not there"
    for length in (1 << 31, 2**32 - 1, 100_000_000):
        yield f"long_{length}", pickle(
            b"\x8b" + struct.pack("<I", length) + bytes(20)
        ), f"an integer of {length} bytes", "LONG4: quadratic in CPython, negative for some"
    yield "long_of_255_bytes", pickle(b"\x8a\xff" + b"\xff" * 255), "an integer of 255 bytes", "LONG1"
    yield "long_of_17_bytes", pickle(b"\x8a\x11" + b"\x01" * 17), "an integer of 17 bytes", "LONG1"
    yield "global_long", pickle(glob("m" * 100_000, "n")), "more than 512 bytes", "a name of 100 KB"
    yield "global_long_stack", pickle(text("m" * 100_000) + text("n") + b"\x93"), "more than 512 bytes", "a name of 100 KB"
    yield "global_unended", b"\x80\x02cposix", "cut short", ""
    yield "global_half", b"\x80\x02cposix\nsystem", "cut short", ""
    yield "global_empty", pickle(glob("", "")), "without a module or name", ""


def stacks():
    for name, body in {
        "reduce": glob("posix", "system") + REDUCE,
        "reduce_empty": REDUCE,
        "build": NONE + BUILD,
        "tuple_1": b"\x85",
        "tuple_2": NONE + b"\x86",
        "tuple_3": NONE + NONE + b"\x87",
        "append": LIST + APPEND,
        "set_item": DICT + NONE + SET_ITEM,
        "newobj": EMPTY_TUPLE + b"\x81",
        "newobj_ex": NONE + NONE + b"\x92",
        "stack_global": text("a") + b"\x93",
        "persistent": b"Q",
        "pop": POP,
        "memoize": b"\x94",
        "put": put(0),
        "appends_below": MARK + NONE + APPENDS,
        "set_items_below": MARK + NONE + NONE + SET_ITEMS,
    }.items():
        yield "underflow_" + name, pickle(body, 4), "more from the stack than is on it", "reads below the stack"
    yield "underflow_mark", pickle(LIST + MARK + NONE + APPEND), "more from the stack", "APPEND reaches below the mark"
    yield "underflow_reduce_mark", pickle(
        glob("posix", "system") + MARK + EMPTY_TUPLE + REDUCE
    ), "more from the stack", "REDUCE reaches below the mark"
    for name, code in {
        "tuple": TUPLE,
        "appends": APPENDS,
        "set_items": SET_ITEMS,
        "pop_mark": b"1",
        "add_items": b"\x90",
        "frozen_set": b"\x91",
    }.items():
        yield "no_mark_" + name, pickle(LIST + code, 4), "a mark that was never set", "no MARK"
    targets = {
        "none": NONE,
        "int": number(5),
        "text": text("x"),
        "tuple": EMPTY_TUPLE,
        "global": glob("os", "environ"),
        "bool": b"\x88",
        "persistent": None,
    }
    for name, body in targets.items():
        if body is not None:
            yield "append_to_" + name, pickle(body + NONE + APPEND), "items to what cannot have any", "type confusion"
            yield "set_item_on_" + name, pickle(body + NONE + NONE + SET_ITEM), "items to what cannot have any", "CVE-2026-24747"
            yield "state_of_" + name, pickle(body + DICT + BUILD), "state to what is no object", "type confusion"
    yield "append_to_dict", pickle(DICT + NONE + APPEND), "items to what cannot have any", "CVE-2026-24747"
    yield "set_item_on_list", pickle(
        LIST + number(0) + NONE + SET_ITEM
    ), "items to what cannot have any", "CVE-2026-24747: a list written by index"
    yield "set_item_on_set", pickle(b"\x8f" + NONE + NONE + SET_ITEM, 4), "items to what cannot have any", "type confusion"
    yield "state_of_list", pickle(LIST + DICT + BUILD), "state to what is no object", "type confusion"
    yield "state_of_dict", pickle(DICT + DICT + BUILD), "state to what is no object", "type confusion"
    yield "state_twice", pickle(
        call("collections OrderedDict") + DICT + BUILD + DICT + BUILD
    ), "state to one object twice", "the first would be hidden"
    yield "set_items_odd", pickle(DICT + MARK + NONE + SET_ITEMS), "key without a value", "reads beyond the items"
    yield "key_twice", pickle(DICT + MARK + text("a") + NONE + text("a") + EVIL + SET_ITEMS), "twice in one dict", "which one counts?"
    yield "key_twice_apart", pickle(
        DICT + text("a") + NONE + SET_ITEM + text("a") + EVIL + SET_ITEM
    ), "twice in one dict", "which one counts?"
    yield "key_twice_other_code", pickle(
        DICT + text("a") + NONE + SET_ITEM + b"\x8c\x01a" + EVIL + SET_ITEM, 4
    ), "twice in one dict", "the same text by another op-code"
    yield "stack_global_number", pickle(number(1) + text("system") + b"\x93", 4), "by what is no text", "picklescan: odd operands"
    yield "stack_global_computed", pickle(
        call(glob("builtins", "str"), text("posix")) + text("system") + b"\x93", 4
    ), "by what is no text", "a name that only a call knows"
    yield "stack_global_bytes", pickle(b"C\x05posix" + text("system") + b"\x93", 4), "by what is no text", ""
    for index in (0, 255, 1 << 31, 2**32 - 1):
        yield f"get_{index}", pickle(get(index)), "which was never put", "picklescan: a bad memo index"
    yield "get_before_put", pickle(get(7) + put(7)), "which was never put", ""


def laughs(kind, levels, ten):
    """Each level holds the one before ten times."""
    body = value(["lol"] * ten) if kind == LIST else value(("lol",) * ten) if kind == TUPLE else value({str(i): "lol" for i in range(ten)})
    for level in range(levels):
        body += put(level)
        if kind == LIST:
            body += POP + LIST + MARK + get(level) * ten + APPENDS
        elif kind == TUPLE:
            body += POP + MARK + get(level) * ten + TUPLE
        else:
            body += POP + DICT + MARK + b"".join(text(str(i)) + get(level) for i in range(ten)) + SET_ITEMS
    return pickle(body)


def trees():
    """Legal streams that cost a careless reader all its memory, time or stack: they must load as data."""
    yield "laughs_list", laughs(LIST, 100, 10), "fickling#111, GHSA-g53j-hmj6-fqvw: 10^100 values when walked"
    yield "laughs_tuple", laughs(TUPLE, 100, 10), "billion laughs without a container to hold on to"
    yield "laughs_dict", laughs(DICT, 60, 10), "billion laughs by dict"
    yield "memo_4_billion", pickle(LIST + b"r\xff\xff\xff\xff"), "CVE-2018-20406: an array as long as the index"
    yield "memo_9_bytes", b"\x80\x02]r\xff\xff\xff\x7f.", "cpython#115952"
    yield "memo_scattered", pickle(
        b"".join(NONE + put(i * 40503 % (1 << 32)) + POP for i in range(20_000)) + NONE
    ), "a memo that hashes badly"
    yield "memo_backwards", pickle(b"".join(NONE + put(i) + POP for i in reversed(range(20_000))) + NONE), "a memo that fills from its end"
    yield "get_flood", pickle(
        value(["x" * 1000] * 10) + put(0) + POP + LIST + MARK + get(0) * 200_000 + APPENDS
    ), "candle#3617: a copy at every GET"
    yield "append_flood", pickle(LIST + put(0) + (NONE + APPEND) * 200_000), "quadratic growth"
    yield "append_in_turns", pickle(
        value(()) + POP + LIST + put(0) + LIST + put(1) + (POP + get(0) + NONE + APPEND + POP + get(1) + NONE + APPEND) * 30_000 + POP
    ), "two lists that grow in turns"
    yield "mark_flood", pickle(MARK * 300_000 + TUPLE * 300_000), "300000 marks"
    yield "deep_list", pickle(LIST * 300_000 + APPEND * 299_999), "recursion: reading, walking, freeing"
    yield "deep_tuple", pickle(EMPTY_TUPLE + b"\x85" * 900_000), "recursion in the destructor (candle#3628)"
    yield "deep_dict", pickle(DICT + (text("k") + DICT) * 60_000 + SET_ITEM * 60_000), "recursion"
    yield "deep_call", pickle(
        glob("builtins", "list")
        + put(0)
        + EMPTY_TUPLE * 1
        + (POP + get(0)) * 0
        + b"".join([REDUCE])
        + (b"\x85" + put(1) + POP + get(0) + get(1) + REDUCE) * 60_000
    ), "calls of calls"
    yield "deep_state", pickle(
        call("collections OrderedDict") + put(0) + POP + NONE + (put(1) + POP + call("m C") + get(1) + BUILD) * 20_000
    ), "objects within the state of objects"
    yield "deep_key", pickle(
        EMPTY_TUPLE + (put(1) + POP + DICT + get(1) + NONE + SET_ITEM) * 20_000
    ), "dicts as keys of dicts: not hashable"
    yield "cycle_list", pickle(LIST + put(0) + get(0) + APPEND), "fickling#196"
    yield "cycle_dict", pickle(DICT + put(0) + text("self") + get(0) + SET_ITEM), "fickling#196"
    yield "cycle_key", pickle(DICT + put(0) + get(0) + get(0) + SET_ITEM), "a dict that is its own key"
    yield "cycle_tuple", pickle(LIST + put(0) + get(0) + b"\x85" + APPEND), "through a tuple"
    yield "cycle_state", pickle(call("m C") + put(0) + get(0) + BUILD), "an object that is its own state"
    yield "cycle_ordered", pickle(
        LIST + put(0) + POP + call("collections OrderedDict", get(0)) + put(1) + POP + get(0) + get(1) + APPEND + POP + get(1)
    ), "OrderedDict of a list that holds it"
    yield "cycle_wide", pickle(LIST + put(0) + MARK + get(0) * 50_000 + APPENDS), "50000 ways round"
    yield "key_unhashable", pickle(value({}) + LIST + NONE + SET_ITEM), "a list as a key"
    yield "key_twice_number", pickle(DICT + number(1) + NONE + SET_ITEM + b"\x88" + NONE + SET_ITEM), "1 and True are one key in Python"
    yield "text_surrogates", pickle(value(["\ud800", "\udfff\ud800"])), "texts that are no UTF-8"
    yield "text_not_utf8", pickle(text(b"\xff\xfe\x00")), "texts that are no UTF-8"
    yield "numbers", pickle(value([float("nan"), float("inf"), -0.0, 2**120, -(2**120), 2**63, -(2**63)])), "what JSON cannot say"
    yield "newobj_of_text", pickle(text("os") + EMPTY_TUPLE + b"\x81"), "a text as a class"
    yield "kwargs_text", pickle(glob("m", "C") + EMPTY_TUPLE + text("kw") + b"\x92", 4), "keywords that are no dict"
    yield "frames_many", b"\x80\x04" + b"".join(
        b"\x95" + Q(2) + NONE + POP for _ in range(20_000)
    ) + NONE + b".", "a frame for each op-code"
    yield "frames_empty", b"\x80\x04" + (b"\x95" + Q(0)) * 20_000 + NONE + b".", "frames of nothing"


def entries():
    for maker in (op_codes, framing, sizes, stacks):
        for name, content, words, why in maker():
            # The first bytes alone do not make it a PyTorch file: the reader is asked all the same.
            yield Entry(f"stream_{name}.pkl", content, (words,), inspect="either", offset=True, why=why, torch="refused")
    for name, content, why in trees():
        yield Entry(
            f"tree_{name}.pkl",
            content,
            ("",),
            inspect="either",
            why=why,
            torch=("0 tensors",),
            memory=192 << 20 if name in ("get_flood", "cycle_wide") else 64 << 20,
        )  # the JSON of a report has bounds of its own
