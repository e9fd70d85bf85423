"""Pickle streams by hand: every function gives the op-codes that push one value."""

import struct

MARK, STOP, POP, NONE, REDUCE, BUILD, TUPLE, APPEND, APPENDS = b"(", b".", b"0", b"N", b"R", b"b", b"t", b"a", b"e"
LIST, DICT, EMPTY_TUPLE, SET_ITEM, SET_ITEMS, NEW, PERSISTENT = b"]", b"}", b")", b"s", b"u", b"\x81", b"Q"
TUPLES = [EMPTY_TUPLE, b"\x85", b"\x86", b"\x87"]


def text(value):
    content = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(content)) + content


def number(value):
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def glob(module, name):
    return b"c" + module.encode("latin-1") + b"\n" + name.encode("latin-1") + b"\n"


def value(item):
    """Texts, numbers, None, booleans, floats, tuples, lists and dicts; bytes are op-codes already."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, bool):
        return b"\x88" if item else b"\x89"
    if isinstance(item, str):
        return text(item)
    if isinstance(item, int):
        return number(item)
    if isinstance(item, float):
        return b"G" + struct.pack(">d", item)
    if item is None:
        return NONE
    if isinstance(item, tuple):
        return b"".join(map(value, item)) + TUPLES[len(item)] if len(item) < 4 else MARK + b"".join(map(value, item)) + TUPLE
    if isinstance(item, list):
        return LIST + MARK + b"".join(map(value, item)) + APPENDS
    return DICT + MARK + b"".join(value(key) + value(content) for key, content in item.items()) + SET_ITEMS


def call(function, *arguments):
    """function(*arguments); `function` is "module name" or op-codes."""
    return (glob(*function.split(" ")) if isinstance(function, str) else function) + value(tuple(arguments)) + REDUCE


def new(kind, *arguments):
    return glob(*kind.split(" ")) + value(tuple(arguments)) + NEW


def put(index):
    return b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)


def get(index):
    return b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)


def pickle(body, protocol=2):
    return b"\x80" + bytes([protocol]) + body + STOP


def framed(body, length=None, protocol=4):
    body += STOP
    return b"\x80" + bytes([protocol]) + b"\x95" + struct.pack("<Q", len(body) if length is None else length) + body


def storage(key, elements, kind="FloatStorage", location="cpu", tail=()):
    return value(("storage", glob("torch", kind), key, location, elements) + tuple(tail)) + PERSISTENT


def tensor(stored, shape, stride=None, offset=0, function="_rebuild_tensor_v2", tail=(False, call("collections OrderedDict"))):
    if stride is None:
        stride, step = [], 1
        for dimension in reversed(shape):
            stride.insert(0, step)
            step *= max(dimension, 1)
    return call("torch._utils " + function, stored, offset, tuple(shape), tuple(stride), *tail)
