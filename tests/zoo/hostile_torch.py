"""PyTorch files whose tensors or legacy streams lie, and what is no PyTorch file at all. (The archives are in hostile_zip.py.)

Sources: CVE-2026-24747 (sizes of storages), CVE-2025-32434 (tar), torch/_utils.py's checks, picklescan's nullifAI.
"""

import struct
import zlib

from hostile_zip import EVIL, TWO, base, torch_entries
from pickle_bytes import call, glob, number, storage, tensor, text, value
from torch_bytes import TorchZip, legacy
from zoo import CANARY, Entry


def views():
    def one(**more):
        return base().bytes(TorchZip.dict_of({"weight": tensor(b"%s", **({"shape": [2]} | more))}))

    def stored(*arguments, **more):
        return base().bytes(value({"weight": tensor(storage(*arguments, **more), [2])}))

    yield "record_missing", stored("1", 2), "has no record", ""
    yield "record_up", stored("../version", 2), "has no record", "a path as a key"
    yield "record_absolute", stored("/etc/passwd", 2), "has no record", "a path as a key"
    yield "record_key_empty", stored("", 2), "without a key", ""
    yield "record_key_long", stored("k" * 1_000_000, 2), "without a key", "the message must not repeat it"
    yield "record_smaller", stored("0", 3), "has 8 bytes where 12 are described", "CVE-2026-24747: reads beyond the record"
    yield "record_larger", stored("0", 1), "has 8 bytes where 4 are described", "hidden bytes"
    yield "elements_negative", stored("0", -2), "impossible size", ""
    yield "elements_2_62", stored("0", 1 << 62), "impossible size", "elements * 4 wraps to 0"
    yield "elements_2_70", stored("0", 1 << 70), "impossible size", "beyond 64 bits"
    yield "elements_real", stored("0", 2.0), "impossible size", "another type"
    yield "elements_none", stored("0", None), "impossible size", "another type"
    yield "class_unknown", stored("0", 2, kind="EvilStorage"), "unknown class", ""
    yield "class_text", base().bytes(
        value({"weight": tensor(value(("storage", "FloatStorage", "0", "cpu", 2)) + b"Q", [2])})
    ), "unknown class", "another type"
    yield "class_of_another_size", stored("0", 2, kind="DoubleStorage"), "has 8 bytes where 16 are described", "CVE-2026-24747"
    yield "two_classes", base().bytes(
        value({"a": tensor(storage("0", 2), [2]), "b": tensor(storage("0", 4, kind="HalfStorage"), [4])})
    ), "two types or sizes", "type confusion"
    for name, body in {
        "none": b"N",
        "text": text("storage"),
        "number": number(0),
        "list": value(["storage", 1]),
        "empty": value(()),
        "short": value(("storage", glob("torch", "FloatStorage"), "0")),
        "long": value(("storage", glob("torch", "FloatStorage"), "0", "cpu", 2, None, 1)),
        "module": value(("module", glob("evil", "C"), "evil.py", "import os")),
        "other": value(("file", "/etc/passwd", "0", "cpu", 2)),
        "call": call("posix system", "touch " + CANARY),
    }.items():
        yield "id_" + name, base().bytes(value({"weight": body + b"Q"})), "", "a persistent id of a wrong form"
    yield "offset_negative", one(offset=-1), "", "reads before the storage"
    yield "offset_beyond", one(offset=1), "", "reads beyond the storage"
    yield "offset_2_62", one(offset=1 << 62), "", "offset * 4 wraps to 0"
    yield "offset_2_63", one(offset=(1 << 63) - 1), "", "offset + 1 wraps"
    yield "offset_real", one(offset=0.0), "", "another type"
    yield "offset_call", base().bytes(
        TorchZip.dict_of(
            {"w": call("torch._utils _rebuild_tensor_v2", b"%s", call("posix system", "touch canary"), (2,), (1,), False, b"}")}
        )
    ), "", "a call where a number should be"
    yield "shape_negative", one(shape=[-2], stride=[-1]), "numbers from 0 on", ""
    yield "shape_negative_twice", one(shape=[-1, -2], stride=[1, 1]), "numbers from 0 on", "the product is positive"
    yield "shape_2_62", one(shape=[1 << 62], stride=[1]), "", "beyond the storage"
    yield "shape_wraps", one(shape=[1 << 32, 1 << 32], stride=[0, 0]), "", "elements modulo 2^64: 0"
    yield "shape_wraps_bytes", one(shape=[(1 << 62) + 1], stride=[0]), "", "bytes modulo 2^64: 4"
    yield "shape_zero_hides", one(shape=[0, 1 << 62, 1 << 62], stride=[1, 1, 1]), None, "0 hides the product: no bytes at all"
    yield "shape_text", one(shape=["2"], stride=[1]), "numbers from 0 on", "another type"
    yield "shape_of_100", one(shape=[1] * 100, stride=[1] * 100), "list of up to 64", "arrays of fixed length"
    yield "stride_negative", one(stride=[-1], offset=1), "numbers from 0 on", "torch has none: reads before the storage"
    yield "stride_beyond", one(stride=[2]), "", "reads beyond the storage"
    yield "stride_2_62", one(shape=[2, 1], stride=[1 << 62, 1]), "", "offset modulo 2^64: 0"
    yield "stride_2_63", one(shape=[3], stride=[1 << 63]), "", "beyond 63 bits"
    yield "stride_wraps", one(shape=[5, 2], stride=[1 << 62, 1]), "", "(size - 1) * stride wraps to 0"
    yield "stride_sum_wraps", one(shape=[2, 2, 2], stride=[(1 << 62), (1 << 62), 1]), "", "the sum wraps below 0"
    yield "stride_short", one(shape=[1, 2], stride=[1]), "", "fewer strides than dimensions"
    yield "stride_long", one(shape=[2], stride=[1, 1]), "", "more strides than dimensions"
    yield "expanded", one(shape=[1 << 20, 1 << 20, 2], stride=[0, 0, 1]), "unfolded", "no offset: 8 bytes become 8 TB"
    yield "expanded_to_2_62", one(shape=[1 << 61], stride=[0]), "", "8 bytes become 2^63"
    yield "expanded_often", base().bytes(
        value({str(i): tensor(storage("0", 2), [1 << 20, 2], stride=[0, 1]) for i in range(40)})
    ), None, "40 times 8 MB: loads"
    yield "bits_set", one(tail=(False, call("collections OrderedDict"), {"conj": True})), "conj", "values that the bytes are not"
    yield "arguments_few", base().bytes(value({"w": call("torch._utils _rebuild_tensor_v2", storage("0", 2))})), "", ""
    yield "arguments_none", base().bytes(value({"w": glob("torch._utils", "_rebuild_tensor_v2") + b"NR"})), "", "no tuple"
    yield "storage_none", base().bytes(value({"w": tensor(b"N", [2])})), "", "no storage"
    yield "storage_is_tensor", base().bytes(TorchZip.dict_of({"w": tensor(tensor(b"%s", [2]), [2])})), "", "a tensor as a storage"
    yield "version_3_dtype", base().bytes(
        value(
            {
                "w": call(
                    "torch._utils _rebuild_tensor_v3",
                    storage("0", 8, kind="UntypedStorage"),
                    0,
                    (2,),
                    (1,),
                    False,
                    b"}",
                    glob("torch", "evil"),
                )
            }
        )
    ), "unknown element type", ""
    yield "version_3_dtype_larger", base().bytes(
        value(
            {
                "w": call(
                    "torch._utils _rebuild_tensor_v3",
                    storage("0", 8, kind="UntypedStorage"),
                    0,
                    (2,),
                    (1,),
                    False,
                    b"}",
                    glob("torch", "uint64"),
                )
            }
        )
    ), "", "reads beyond the storage"
    yield "parameter_deep", base().bytes(value({"w": _wrapped(3000)})), "wrapped more than", "recursion"
    yield "parameter_of_nothing", base().bytes(value({"w": call("torch._utils _rebuild_parameter")})), "around nothing", ""
    yield "parameter_of_itself", base().bytes(
        b"}X\1\0\0\0wctorch._utils\n_rebuild_parameter\n]q\0h\0h\0a0h\0\x85Rs"
    ), "", "a cycle of wrappers"
    for name, kind in {
        "sparse": "_rebuild_sparse_tensor",
        "quantized": "_rebuild_qtensor",
        "nested": "_rebuild_nested_tensor",
        "meta": "_rebuild_meta_tensor_no_storage",
    }.items():
        yield name, base().bytes(
            value({"w": call("torch._utils " + kind, storage("0", 2))})
        ), "tensor", "indices and scales that no one checks"


def _wrapped(depth):
    body = tensor(storage("0", 2), [2])
    parts = [glob("torch._utils", "_rebuild_parameter")] * depth
    return b"".join(parts) + body + (b"\x88}\x87R") * depth


def streams():
    def one(tree=None, storages=None, **more):
        return legacy(
            value({"weight": tensor(storage("0", 2, tail=(None,)), [2])}) if tree is None else tree,
            {"0": TWO} if storages is None else storages,
            **more,
        )

    def viewed(view):
        return one(value({"weight": tensor(storage("0", 2, tail=(view,)), [2])}))

    whole = one()
    yield "magic", one(magic=b"\x8a\x0a" + bytes(10)), "", "another number first"
    yield "protocol_1000", one(protocol=number(1000)), "unknown protocol", ""
    yield "protocol_text", one(protocol=text("1001")), "unknown protocol", "another type"
    yield "system_number", one(system=number(1)), "description of its system", "another type"
    yield "keys_missing", one(keys=value([])), "does not list", "storages without bytes"
    yield "keys_more", one(keys=value(["0", "1"])), "which nothing uses", "bytes without a tensor"
    yield "keys_twice", one(keys=value(["0", "0"])), "lists already", "which one counts?"
    yield "keys_other", one(keys=value(["7"])), "which nothing uses", ""
    yield "keys_number", one(keys=number(0)), "", "another type"
    yield "keys_cycle", one(keys=b"]q\0h\0a"), "", "a list that holds itself"
    yield "count_larger", one(counts={"0": 3}), "has 3 elements where 2", "CVE-2026-24747"
    yield "count_smaller", one(counts={"0": 1}), "has 1 elements where 2", "hidden bytes"
    yield "count_2_62", one(counts={"0": 1 << 62}), "elements where 2", "elements * 4 wraps to 0"
    yield "count_2_64", one(counts={"0": 2**64 - 1}), "elements where 2", "-1"
    yield "described_2_40", one(
        value({"w": tensor(storage("0", 1 << 40, tail=(None,)), [2])}), counts={"0": 1 << 40}
    ), "cut short", "4 TB in a file of bytes"
    yield "behind", one(tail=b"x"), "behind its last storage", ""
    yield "behind_pickle", one(tail=EVIL), "behind its last storage", "a sixth pickle"
    for i, cut in enumerate((14, 30, 100, len(whole) - 20, len(whole) - 9, len(whole) - 1)):
        yield f"cut_{i}", whole[:cut], "", "an interrupted download"
    yield "id_of_zip", one(value({"weight": tensor(storage("0", 2), [2])})), "no storage", "five parts where a legacy file has six"
    yield "view_beyond", viewed(("1", 1, 2)), "leaves it", ""
    yield "view_negative", viewed(("1", -1, 2)), "leaves it", ""
    yield "view_wraps", viewed(("1", (1 << 63) - 1, (1 << 63) - 1)), "leaves it", "offset + size wraps"
    yield "view_short", viewed(("1", 0)), "leaves it", "two parts where three are"
    yield "view_text", viewed("x"), "leaves it", "another type"
    yield "view_smaller", viewed(("1", 0, 1)), "", "a tensor that leaves the view but not the storage"
    yield "tar", b"canary".ljust(100, b"\0") + b"0000644\0" * 3 + b"00000000000\0" * 2 + b"      \0 0" + bytes(
        100
    ) + b"ustar\x0000" + bytes(247) + EVIL, "tar archive", "CVE-2025-32434: its own loader"
    yield "pytorch1", b"PYTORCH1" + bytes(100), "PYTORCH1", "the first form without zip"
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100), "", "a Keras file: Lambda layers hold code"
    yield "npy", b"\x93NUMPY\x01\0v\0" + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(
        117
    ) + b"\n" + EVIL, "", "an array of objects is a pickle"
    yield "gzip", b"\x1f\x8b\x08\0" + bytes(6) + zlib.compress(EVIL)[2:-4] + struct.pack(
        "<II", zlib.crc32(EVIL), len(EVIL)
    ), "gzip", "no offset: a compressed pickle"
    yield "bzip2", b"BZh91AY&SY" + bytes(40), "", "a compressed pickle"
    yield "seven_zip", b"7z\xbc\xaf\x27\x1c" + bytes(60), "", "picklescan: nullifAI"
    yield "python", b"import os\nos.system('touch canary')\n", "", "a program"
    yield "elf", b"\x7fELF" + bytes(60), "", "a program"


def entries():
    control = legacy(value({"weight": tensor(storage("0", 2, tail=(None,)), [2])}), {"0": TWO})
    yield Entry("legacy_control.pt", control, ("",), inspect="either", why="it must open", torch=("1 tensors of 8 bytes",))
    yield from torch_entries("view", views)
    yield from torch_entries("legacy", streams)
