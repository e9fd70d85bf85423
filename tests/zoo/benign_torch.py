"""Odd but right PyTorch files: (name, bytes). torch.load reads each of them, and what it reads is what our reader must see.

Those of tests/python/compare_torch.py are made by today's torch.save; these are what other writers and other times left.
"""

import collections
import io
import pickle
import pickletools
import struct
import zipfile
import zlib

import torch

from pickle_bytes import (
    APPENDS,
    DICT,
    LIST,
    MARK,
    NONE,
    POP,
    SET_ITEMS,
    TUPLE,
    call,
    framed,
    get,
    glob,
    number,
    pickle as stream,
    put,
    storage,
    tensor,
    text,
    value,
)
from torch_bytes import Record, TorchZip, archive, legacy, zip64
from zoo import floats

TWO, SIX = floats([1.5, -2.0]), floats(range(6))
ALL = 0xFFFFFFFF


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


def saved(obj, **options):
    out = io.BytesIO()
    torch.save(obj, out, **options)
    return out.getvalue()


def base(tree=None, **options):
    return TorchZip(**options).add("0", SIX), value({"weight": tensor(storage("0", 6), [2, 3])}) if tree is None else tree


def zipped(tree=None, protocol=2, records=lambda records: records, **options):
    made, tree = base(tree)
    return archive(records(made.records(tree, protocol)), **options)


def repacked(data, **options):
    """The records of a file of torch.save in an archive of Python's zipfile."""
    source, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    return out.getvalue()


class Unseekable(io.BytesIO):
    """zipfile writes data descriptors where it cannot go back."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation("seek")


def archives():
    plain = {"a": random(3, 4), "b": random(5).half(), "c": torch.arange(4)}
    yield "by_hand", zipped()
    yield "no_byteorder", archive(TorchZip(byteorder=None).add("0", SIX).records(base()[1]))
    yield "folder_of_spaces", archive(TorchZip(folder="my model (1)").add("0", SIX).records(base()[1]))
    yield "folder_non_ascii", archive(TorchZip(folder="модель").add("0", SIX).records(base()[1]))
    yield "folder_long", archive(TorchZip(folder="x" * 200).add("0", SIX).records(base()[1]))
    yield "stream_last", zipped(records=lambda records: records[1:] + records[:1])
    yield "directory_in_other_order", zipped(order=[3, 2, 0, 1])
    yield "more_records", zipped(
        records=lambda records: records
        + [
            Record("archive/.data/serialization_id", b"1" * 40),
            Record("archive/.format_version", b"1"),
            Record("archive/.storage_alignment", b"64"),
            Record("archive/extra/notes.txt", b"note"),
        ]
    )
    yield "folder_entries", zipped(records=lambda records: [Record("archive/", b"")] + records + [Record("archive/data/", b"")])
    yield "unused_storage", zipped(records=lambda records: records + [Record("archive/data/7", bytes(100))])
    yield "comment", zipped(comment=b"made by hand")
    yield "padded_fields", zipped(
        records=lambda records: [
            Record(record.name, record.content, extra=struct.pack("<HH", 0x4246, 60) + b"Z" * 60) for record in records
        ]
    )
    yield "zip64_end", zipped(end={"here": 0xFFFF, "count": 0xFFFF, "size": ALL, "offset": ALL}, locator=zip64)
    yield "zip64_sizes", zipped(
        records=lambda records: [
            Record(
                record.name,
                record.content,
                local={"size": ALL, "stored": ALL},
                central={"size": ALL, "stored": ALL},
                extra=struct.pack("<HHQQ", 1, 16, len(record.content), len(record.content)),
                central_extra=struct.pack("<HHQQ", 1, 16, len(record.content), len(record.content)),
            )
            for record in records
        ]
    )
    descriptor = {"local": {"flags": 8, "crc": 0, "size": 0, "stored": 0}, "central": {"flags": 8}}

    def described(record):
        return Record(
            record.name,
            record.content,
            **descriptor,
            descriptor=struct.pack("<IIII", 0x08074B50, zlib.crc32(record.content), len(record.content), len(record.content)),
        )

    yield "descriptors", zipped(records=lambda records: [described(record) for record in records])
    yield "utf8_flag", zipped(
        records=lambda records: [
            Record(record.name, record.content, local={"flags": 0x800}, central={"flags": 0x800}) for record in records
        ]
    )
    yield "times", zipped(
        records=lambda records: [
            Record(record.name, record.content, local={"time": 0x7D1C, "date": 0x5A21}, central={"time": 0x7D1C, "date": 0x5A21})
            for record in records
        ]
    )
    yield "repacked", repacked(saved(plain))
    out = Unseekable()
    source = zipfile.ZipFile(io.BytesIO(saved(plain)))
    with zipfile.ZipFile(out, "w") as target:
        for info in source.infolist():
            target.writestr(info.filename, source.read(info))
    yield "streamed", out.getvalue()
    appended = io.BytesIO(saved(plain))
    with zipfile.ZipFile(appended, "a") as target:
        target.writestr("archive/added.txt", b"later")
    yield "appended_to", appended.getvalue()
    yield "many_storages", saved({str(i): torch.full((2,), float(i)) for i in range(3000)})


def streams():
    plain = {"weights": {"a": [1, 2.5, "x", None, True], "b": (1, (2, (3, ())))}, "name": "é🙂", "list": list(range(300))}
    for protocol in (2, 3, 4, 5):
        yield f"optimized_{protocol}", pickletools.optimize(pickle.dumps(plain, protocol))
        out = io.BytesIO()
        writer = pickle._Pickler(out, protocol)  # Python's own pickler: other batches and frames than C's
        writer.dump(plain)
        yield f"python_pickler_{protocol}", out.getvalue()
        out = io.BytesIO()
        writer = pickle.Pickler(out, protocol)
        writer.fast = True
        writer.dump(plain)
        yield f"without_memo_{protocol}", out.getvalue()
    yield "not_framed", stream(value(plain), 4)
    yield "frame_for_all", framed(value(plain))
    yield "frame_and_none", b"\x80\x04\x95" + struct.pack("<Q", len(value(plain))) + value(plain) + b"."
    yield "stack_global_in_protocol_2", zipped(value({"size": text("torch") + text("Size") + b"\x93" + value(((2, 3),)) + b"R"}), 4)
    yield "put_of_all", stream(LIST + put(0) + MARK + b"".join(number(i) + put(i + 1) for i in range(300)) + APPENDS, 2)
    yield "put_again", stream(text("a") + put(0) + POP + text("b") + put(0) + POP + get(0), 2)
    yield "memo_far", stream(text("a") + put(70_000) + POP + get(70_000), 2)
    yield "marks_popped", stream(MARK + NONE + NONE + b"1" + MARK + b"0" + number(7), 2)
    yield "batches", stream(LIST + (MARK + number(1) * 3 + APPENDS) * 100, 2)
    yield "batches_empty", stream(DICT + (MARK + SET_ITEMS) * 10 + MARK + text("k") + NONE + SET_ITEMS, 2)
    yield "set_twice", stream(value([call("builtins set", [1, 2, 2]), call("__builtin__ set", [3])]), 2)
    yield "bytes_as_text", stream(value([call("_codecs encode", "\xff\x00", "latin1"), call("__builtin__ bytes")]), 2)
    yield "python_2_texts", stream(DICT + MARK + b"U\x03keyT\x05\0\0\0value" + SET_ITEMS, 2)
    yield "python_2_ordered", stream(call("collections OrderedDict", [["a", 1], ["b", 2]]), 2)
    yield "long_numbers", stream(
        value(
            [
                b"\x8a\x00",
                b"\x8a\x01\xff",
                b"\x8a\x08" + b"\xff" * 8,
                b"\x8b\x09\0\0\0" + b"\1" * 9,
                b"\x8a\x10" + b"\x7f" * 16,
                b"\x8a\x09" + b"\xff" * 8 + b"\0",
            ]
        ),
        2,
    )
    yield "texts_by_every_code", stream(value(("a", b"\x8c\x01b", b"\x8d\x01" + bytes(7) + b"c")), 4)
    yield "bytes_by_every_code", stream(
        value((b"C\x01a", b"B\x01\0\0\0b", b"\x8e\x01" + bytes(7) + b"c", b"\x96\x01" + bytes(7) + b"d")), 5
    )
    yield "sets_by_code", stream(value([b"\x8f" + MARK + number(1) + number(2) + b"\x90", MARK + number(3) + b"\x91"]), 4)
    yield "shared_list", stream(LIST + put(0) + number(1) + b"a" + get(0) + get(0) + b"\x87", 2)
    yield "long_tuple", stream(MARK + number(1) * 100_000 + TUPLE, 2)
    yield "default_dict", stream(call("collections defaultdict", glob("builtins", "list")) + MARK + text("k") + value([1]) + SET_ITEMS, 2)


def tensors():
    def one(body, content=SIX):
        return TorchZip().add("0", content).bytes(value({"w": body}))

    six = storage("0", 6)
    ordered = call("collections OrderedDict")
    yield "first_rebuild", one(call("torch._utils _rebuild_tensor", six, 0, (2, 3), (3, 1)))
    yield "metadata_empty", one(call("torch._utils _rebuild_tensor_v2", six, 0, (6,), (1,), False, ordered, {}))
    yield "version_3", one(
        call(
            "torch._utils _rebuild_tensor_v3",
            storage("0", 24, kind="UntypedStorage"),
            0,
            (6,),
            (1,),
            False,
            ordered,
            glob("torch", "uint32"),
        )
    )
    yield "requires_grad", one(call("torch._utils _rebuild_tensor_v2", six, 0, (6,), (1,), True, ordered))
    yield "shape_by_size", one(call("torch._utils _rebuild_tensor_v2", six, 0, call("torch Size", (2, 3)), (3, 1), False, ordered))
    yield "on_a_device", one(call("torch._utils _rebuild_tensor_v2", storage("0", 6, location="cpu"), 1, (2, 2), (3, 1), False, ordered))
    yield "parameter", one(call("torch._utils _rebuild_parameter", tensor(six, [6]), True, ordered))
    yield "parameter_with_state", one(call("torch._utils _rebuild_parameter_with_state", tensor(six, [6]), False, ordered, {"note": 1}))
    yield "parameter_by_class", one(
        call(
            "torch._tensor _rebuild_from_type_v2",
            glob("torch._utils", "_rebuild_tensor_v2"),
            glob("torch.nn.parameter", "Parameter"),
            (six, 0, (6,), (1,), True, ordered),
            {},
        )
    )
    yield "one_of_one", one(tensor(six, [1, 1, 1], stride=[900, 70, 5], offset=5))
    yield "empty_at_the_end", one(tensor(six, [0, 3], offset=6))
    yield "empty_storage", TorchZip().add("0", b"").bytes(value({"w": tensor(storage("0", 0), [0])}))
    yield "reversed_dimensions", one(tensor(six, [3, 2], stride=[1, 3]))
    yield "every_other", one(tensor(six, [3], stride=[2], offset=1))
    yield "diagonal", one(tensor(six, [2], stride=[4]))
    yield "windows", one(tensor(six, [4, 3], stride=[1, 1]))
    yield "expanded", one(tensor(six, [1000, 6], stride=[0, 1]))
    big = value({"w": tensor(storage("0", 6), [2, 3]), "n": tensor(storage("1", 3, kind="LongStorage"), [3])})
    yield "big_endian", TorchZip(byteorder=b"big").add("0", struct.pack(">6f", *range(6))).add(
        "1", struct.pack(">3q", 1, -2, 3 << 40)
    ).bytes(big)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Dropout(0.1), torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    )
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) + i)
    for protocol in (2, 4):
        yield f"module_{protocol}", saved(model, pickle_protocol=protocol)
        yield f"module_legacy_{protocol}", saved(model, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    yield "state_dict_with_metadata", saved(model.state_dict())
    yield "data_parallel", saved(collections.OrderedDict((f"module.{name}", item) for name, item in model.state_dict().items()))
    optimizer = torch.optim.AdamW(model.parameters())
    model(random(2, 4)).sum().backward()
    optimizer.step()
    yield "training_state", saved(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": 3,
            "rng": torch.zeros(16, dtype=torch.uint8),
            "best": float("inf"),
        }
    )
    yield "untyped_storage", saved({"s": random(4)[1:3], "t": random(4).expand(3, 4)})


def legacies():
    def one(tree, storages=None, **options):
        return legacy(value({"w": tree}), {"0": SIX} if storages is None else storages, **options)

    def six(view=None):
        return storage("0", 6, tail=(view,))

    yield "by_hand", one(tensor(six(), [2, 3]))
    yield "view_of_storage", one(tensor(six(("1", 2, 3)), [3]))
    yield "view_whole", one(tensor(six(("1", 0, 6)), [6]))
    yield "big_endian_system", one(tensor(six(), [6]), system=value({"protocol_version": 1001, "little_endian": False, "type_sizes": {}}))
    yield "keys_in_other_order", legacy(
        value({"a": tensor(storage("x", 6, tail=(None,)), [6]), "b": tensor(storage("b", 2, tail=(None,)), [2])}), {"b": TWO, "x": SIX}
    )
    yield "keys_of_addresses", legacy(value({"a": tensor(storage("94310872734720", 6, tail=(None,)), [6])}), {"94310872734720": SIX})
    yield "nothing_stored", legacy(value({"epoch": 3, "names": ["a", "b"]}), {})
    plain = {"a": random(4, 5).t(), "b": random(3)[1:], "n": torch.arange(5)}
    for protocol in (2, 4, 5):
        yield f"by_torch_{protocol}", saved(plain, pickle_protocol=protocol, _use_new_zipfile_serialization=False)


def files():
    for prefix, maker in (("zip", archives), ("pickle", streams), ("tensor", tensors), ("legacy", legacies)):
        for name, content in maker():
            yield f"{prefix}_{name}", content
