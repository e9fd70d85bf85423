"""PyTorch files whose archive lies. Every one is a whole file but for one lie. (Tensors and legacy streams are in hostile_torch.py.)

Sources: picklescan's zip fixtures (GHSA-w8jq-xcqf-f792, GHSA-7q5r-7gvp-wc82 and others), CVE-2025-32434 (TorchScript),
PKWARE's APPNOTE.
"""

import struct
import zlib

from pickle_bytes import call, pickle, tensor, value
from torch_bytes import Record, TorchZip, archive, zip64
from zoo import CANARY, Entry, floats

TWO = floats([1.0, 2.0])
TREE = TorchZip.dict_of({"weight": tensor(b"%s", [2])})
EVIL = pickle(call("posix system", "touch " + CANARY))
ALL = 0xFFFFFFFF


def base():
    return TorchZip().add("0", TWO)


def changed(name, replacement=None, tree=TREE, **fields):
    """The whole file with one record's fields changed, or the record replaced by others."""
    records = base().records(tree)
    at = next(i for i, record in enumerate(records) if record.name == f"archive/{name}".encode())
    if replacement is not None:
        records[at : at + 1] = replacement(records[at])
    else:
        vars(records[at]).update(fields)
    return records


def archives():
    whole = base().bytes(TREE)
    data = "data/0"
    end = len(whole) - 22
    yield "crc_of_storage", archive(changed(data, real=TWO[:-1] + b"\x41")), "checksum", "a flipped bit"
    yield "crc_of_stream", archive(
        changed("data.pkl", local={"crc": 1}, central={"crc": 1})
    ), "checksum", "picklescan: readers that skip the check"
    yield "crc_differs", archive(changed(data, central={"crc": 7})), "another size or checksum", "local and central disagree"
    small = zlib.compress(bytes(1 << 20), 9)[2:-4]
    deflated = {"method": 8, "stored": len(small), "size": 1 << 20}
    yield "deflated", archive(changed("data.pkl", local=deflated, central=deflated, real=small)), "is compressed", "bombs: 1000 for 1"
    yield "method_99", archive(changed(data, local={"method": 99}, central={"method": 99})), "is compressed (method 99)", ""
    yield "method_differs", archive(changed(data, local={"method": 8})), "another method", "local and central disagree"
    for bit, why in ((0x1, "encrypted"), (0x40, "strongly encrypted"), (0x2000, "masked"), (0x20, "a patch")):
        yield f"flag_{bit:x}", archive(changed(data, local={"flags": bit}, central={"flags": bit})), (
            "is a patch" if bit == 0x20 else "is encrypted"
        ), f"picklescan: {why}"
    yield "flag_differs", archive(changed(data, local={"flags": 1})), "other flags", "picklescan: scanners gave up at the local flag"
    yield "name_differs", archive(
        changed("data.pkl", local={"name": b"archive/data.txt"})
    ), "another name", "picklescan: local and central disagree"
    yield "name_shorter", archive(changed("data.pkl", local={"name_length": 3})), "another name", "the content begins elsewhere"
    yield "size_differs", archive(changed(data, local={"size": 4, "stored": 4})), "another size", "local and central disagree"
    yield "sizes_differ", archive(changed(data, central={"stored": 4})), "its two sizes differ", "stored, but of two sizes"
    yield "stream_twice", archive(
        changed("data.pkl", lambda record: [record, Record("archive/data.pkl", EVIL)])
    ), "appears twice", "which one counts?"
    yield "storage_twice", archive(
        changed(data, lambda record: [record, Record("archive/data/0", bytes(8))])
    ), "appears twice", "which one counts?"
    yield "second_folder", archive(base().records(TREE) + [Record("other/data.pkl", EVIL)]), "is not in the folder", "two roots"
    yield "second_folder_first", archive([Record("other/readme", b"")] + base().records(TREE)), "is not in the folder", "two roots"
    yield "no_folder", archive([Record(record.name[8:], record.content) for record in base().records(TREE)]), "", "torch always writes one"
    yield "no_stream", archive(
        [record for record in base().records(TREE) if not record.name.endswith(b"data.pkl")]
    ), "without a data.pkl", ""
    yield "stream_elsewhere", archive(
        changed("data.pkl", lambda record: [Record("archive/x/data.pkl", record.content)])
    ), "without a data.pkl", ""
    yield "stream_in_capitals", archive(
        changed("data.pkl", lambda record: [Record("archive/DATA.PKL", record.content)])
    ), "without a data.pkl", "case"
    yield "stream_empty", archive(changed("data.pkl", lambda record: [Record("archive/data.pkl", b"")])), "", ""
    yield "empty_archive", archive([]), "", "22 bytes"
    for name, path in {
        "up": "archive/../../canary",
        "up_first": "../canary",
        "absolute": "/tmp/canary",
        "backslash": "archive\\..\\canary",
        "drive": "C:/canary",
        "here": "archive/./data/9",
        "double": "archive//data/9",
        "zero": "archive/data.pkl\0.txt",
        "newline": "archive/a\nb",
        "escape": "archive/\x1b[2J",
        "empty": "",
    }.items():
        yield "path_" + name, archive(base().records(TREE) + [Record(path, b"x")]), (
            "no plain relative path" if path not in ("../canary", "/tmp/canary", "C:/canary", "") else ""
        ), "zip slip"
    yield "torchscript", archive(
        base().records(TREE) + [Record("archive/constants.pkl", pickle(value(())))]
    ), "TorchScript", "CVE-2025-32434: torch.jit.load before weights_only"
    yield "torchscript_old", archive(base().records(TREE) + [Record("archive/model.json", b"{}")]), "TorchScript", "the form of torch 1.0"
    yield "executorch", archive(
        [Record("archive/code/__torch__.py", b"import os")] + base().records(TREE) + [Record("archive/constants.pkl", pickle(value(())))]
    ), "TorchScript", "code beside it"
    for name, content in {"middle": b"middle", "empty": b"", "capital": b"Little", "long": b"big" * 100_000, "zero": b"big\0"}.items():
        yield "byteorder_" + name, TorchZip(byteorder=content).add("0", TWO).bytes(TREE), "byte order", "neither little nor big"
    yield "overlap", archive(base().records(TREE) + [Record("archive/data/1", b"", central={"offset": 0})]), "", "two entries at one place"
    yield "overlap_content", _overlapping(), "overlap", "David Fifield's bomb: entries share bytes"
    yield "into_directory", archive(
        changed("version", local={"size": 60, "stored": 60}, central={"size": 60, "stored": 60})
    ), "overlaps the directory", "an entry that holds the directory"
    yield "beyond_file", archive(
        changed(data, local={"size": 1 << 20, "stored": 1 << 20}, central={"size": 1 << 20, "stored": 1 << 20})
    ), "leave the file", "memory for what is not there"
    yield "offset_beyond_file", archive(changed(data, central={"offset": 1 << 30})), "points at no entry", ""
    yield "offset_of_other", archive(changed(data, central={"offset": 0})), "another name", "picklescan: the directory points elsewhere"
    yield "offset_in_content", archive(changed(data, central={"offset": 7})), "points at no entry", ""
    yield "extra_too_long", archive(
        changed(data, extra=struct.pack("<HH", 0x4246, 500) + b"Z" * 10)
    ), "extra field", "reads beyond the header"
    yield "extra_leaves_file", archive(changed("version", local={"extra_length": 0xFFFF})), "", "reads beyond the file"
    yield "part_of_several", base().bytes(TREE, end={"disk": 1, "start_disk": 1}), "in several parts", "another file"
    yield "entry_of_other_part", archive(changed(data, central={"disk": 2})), "another part", "another file"
    yield "counts_differ", base().bytes(TREE, end={"here": 3}), "two different numbers", ""
    yield "count_too_small", base().bytes(TREE, end={"here": 3, "count": 3}), "more in its directory", "picklescan: hidden entries"
    yield "count_too_large", base().bytes(TREE, end={"here": 9, "count": 9}), "", "memory for what is not there"
    yield "directory_size", base().bytes(TREE, end={"size": 40}), "", "a directory of another size"
    yield "directory_offset", base().bytes(TREE, end={"offset": 0}), "does not end where", "prepended data moves it"
    yield "directory_offset_32", base().bytes(TREE, end={"offset": ALL - 1}), "does not end where", "wraps at 32 bits"
    yield "front", base().bytes(TREE, front=b"#!/bin/sh\ntouch canary\n"), "", "a script in front: self-extracting"
    yield "front_zip", base().bytes(
        TREE, front=Record("archive/data.pkl", EVIL).header(0, False) + EVIL
    ), "before its first entry", "an entry that the directory does not know: readers of local headers run it, torch does not"
    yield "gap", base().bytes(TREE, gap=EVIL), None, "bytes that no entry holds, before the directory: nothing looks at them"
    yield "tail", whole + b"x", "no zip directory", "bytes behind the end"
    yield "comment_too_long", base().bytes(TREE, end={"comment_length": 5}), "no zip directory", "a comment that leaves the file"
    yield "comment_is_archive", _archive_in_comment(), "", "the end record is found twice"
    for cut in (1, 22, len(whole) // 2, end, len(whole) - 1):
        yield f"cut_{cut if cut < 50 else 'half' if cut == len(whole) // 2 else 'end' if cut == end else 'last'}", whole[
            :cut
        ], "", "an interrupted download"
    yield "directory_alone", whole[whole.index(b"PK\x01\x02") :], "", "no entries"


def _overlapping():
    inner = Record("archive/data/9", TWO)
    outer_content = inner.header(0, False) + TWO
    records = base().records(TREE) + [Record("archive/data/8", outer_content)]
    at = sum(len(record.header(0, False)) + len(record.real) for record in records) - len(outer_content)
    return archive(records + [Record("archive/data/9", TWO, central={"offset": at}, real=b"")])


def _archive_in_comment():
    inner = base().bytes(TorchZip.dict_of({"other": tensor(b"%s", [2])}))
    return base().bytes(TREE, comment=inner)


def wide():
    full = {"disk": 0xFFFF, "start_disk": 0xFFFF, "here": 0xFFFF, "count": 0xFFFF, "size": ALL, "offset": ALL}

    def with_locator(changes=None, **fields):
        return base().bytes(TREE, end=full if changes is None else changes, locator=lambda *places: zip64(*places, **fields))

    yield "no_locator", base().bytes(TREE, end=full), "without its locator", "full fields, nothing that explains them"
    yield "locator_beyond", with_locator(at_end=1 << 60), "no zip64 end record", "an offset of 2^60"
    yield "locator_at_0", with_locator(at_end=0), "no zip64 end record", ""
    yield "locator_2_64", with_locator(at_end=2**64 - 8), "no zip64 end record", "offset + size wraps"
    yield "disks", with_locator(at_disks=3), "in several parts", ""
    yield "length", with_locator(length=2**64 - 1), "another length", "offset + length wraps"
    yield "count_2_60", with_locator(count=1 << 60, here=1 << 60), "", "memory for what is not there"
    yield "counts_differ", with_locator(here=1), "contradicts", ""
    yield "size_2_64", with_locator(size=2**64 - 1), "", "offset + size wraps"
    yield "offset_2_64", with_locator(offset=2**64 - 1), "", "offset + size wraps"
    yield "contradicts", with_locator({"count": 5, "here": 5}, count=4, here=4), "contradicts", "two directories: which one counts?"
    field = struct.pack("<HH", 1, 8)
    yield "entry_size_2_64", archive(
        changed("data/0", central={"size": ALL, "stored": ALL}, central_extra=struct.pack("<HHQQ", 1, 16, 2**64 - 1, 2**64 - 1))
    ), "", "begin + size wraps"
    yield "entry_size_2_63", archive(
        changed("data/0", central={"size": ALL, "stored": ALL}, central_extra=struct.pack("<HHQQ", 1, 16, 1 << 63, 1 << 63))
    ), "", "negative"
    yield "entry_offset_2_64", archive(
        changed("data/0", central={"offset": ALL}, central_extra=field + struct.pack("<Q", 2**64 - 1))
    ), "points at no entry", "no offset: offset + header wraps"
    yield "entry_field_missing", archive(
        changed("data/0", central={"size": ALL, "stored": ALL})
    ), "", "full fields, nothing that explains them"
    yield "entry_field_short", archive(
        changed("data/0", central={"size": ALL, "stored": ALL}, central_extra=struct.pack("<HHQ", 1, 8, 8))
    ), "too short", "reads beyond the field"
    yield "entry_field_twice", archive(
        changed("data/0", central_extra=(field + struct.pack("<Q", 8)) * 2)
    ), "two zip64 fields", "which one counts?"


def torch_entries(prefix, maker):
    """`words` None: it opens, and its tensors are read."""
    for name, content, words, why in maker():
        yield Entry(
            f"{prefix}_{name}.pt",
            content,
            (words or "",),
            inspect="either",
            offset="no offset" not in why,
            why=why,
            torch="refused" if words is not None else (" tensors of ",),
        )


def entries():
    yield Entry(
        "zip_control.pt",
        base().bytes(TREE),
        ("",),
        inspect="either",
        why="the file that all others here damage: it must open",
        torch=("1 tensors of 8 bytes",),
    )
    wide_end = {"count": 0xFFFF, "here": 0xFFFF, "size": ALL, "offset": ALL}
    yield Entry(
        "zip_control_64.pt",
        base().bytes(TREE, end=wide_end, locator=zip64),
        ("",),
        inspect="either",
        why="with zip64: it must open",
        torch=("1 tensors of 8 bytes",),
    )
    yield from torch_entries("zip", archives)
    yield from torch_entries("zip64", wide)
