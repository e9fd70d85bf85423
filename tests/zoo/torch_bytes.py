"""Files of torch.save by hand: zip archives and legacy streams in which every field can lie."""

import struct
import zlib

from pickle_bytes import pickle, storage, tensor, value

LOCAL, CENTRAL, END = 0x04034B50, 0x02014B50, 0x06054B50


class Record:
    """One entry of an archive. Fields of the two headers are changed by `local` and `central`."""

    FIELDS = ("version", "flags", "method", "time", "date", "crc", "stored", "size", "name", "extra", "comment", "disk", "offset")

    def __init__(self, name, content, local=None, central=None, descriptor=b"", extra=b"", central_extra=b"", real=None):
        self.name, self.content = name if isinstance(name, bytes) else name.encode(), content
        self.local, self.central, self.descriptor, self.extra, self.central_extra = (
            local or {},
            central or {},
            descriptor,
            extra,
            central_extra,
        )
        self.real = content if real is None else real  # the bytes that lie in the file

    def header(self, at, central):
        fields = {
            "version": 20,
            "flags": 0,
            "method": 0,
            "time": 0,
            "date": 0x21,
            "crc": zlib.crc32(self.content),
            "stored": len(self.content),
            "size": len(self.content),
            "name": self.name,
            "extra": self.central_extra if central else self.extra,
            "comment": b"",
            "disk": 0,
            "offset": at,
        }
        fields |= self.central if central else self.local
        f = fields
        common = struct.pack("<HHHHHIII", f["version"], f["flags"], f["method"], f["time"], f["date"], f["crc"], f["stored"], f["size"])
        lengths = (f.get("name_length", len(f["name"])), f.get("extra_length", len(f["extra"])))
        if central:
            return (
                struct.pack("<IH", CENTRAL, 20)
                + common
                + struct.pack("<HHHHHII", *lengths, len(f["comment"]), f["disk"], 0, 0, f["offset"])
                + f["name"]
                + f["extra"]
                + f["comment"]
            )
        return struct.pack("<I", LOCAL) + common + struct.pack("<HH", *lengths) + f["name"] + f["extra"]


def archive(records, comment=b"", front=b"", gap=b"", end=None, locator=b"", skip=(), order=None):
    """A zip file. `end` changes fields of the end record; records in `skip` are left out of the directory."""
    out, places = bytearray(front), []
    for record in records:
        places.append(len(out))
        out += record.header(0, False) + record.real + record.descriptor
    out += gap
    start = len(out)
    listed = [(record, at) for i, (record, at) in enumerate(zip(records, places)) if i not in skip]
    for record, at in (listed if order is None else [listed[i] for i in order]):
        out += record.header(at, True)
    fields = {
        "disk": 0,
        "start_disk": 0,
        "here": len(listed),
        "count": len(listed),
        "size": len(out) - start,
        "offset": start,
        "comment_length": len(comment),
    } | (end or {})
    if callable(locator):
        locator = locator(start, len(out), len(listed))
    return bytes(out) + locator + struct.pack("<IHHHHIIH", END, *fields.values()) + comment


def zip64(start, end, entries, **changed):
    """The zip64 end record and its locator, for archive(locator=…)."""
    fields = {
        "length": 44,
        "made": 45,
        "needed": 45,
        "disk": 0,
        "start_disk": 0,
        "here": entries,
        "count": entries,
        "size": end - start,
        "offset": start,
    } | {key: item for key, item in changed.items() if not key.startswith("at_")}
    return struct.pack("<IQHHIIQQQQ", 0x06064B50, *fields.values()) + struct.pack(
        "<IIQI", 0x07064B50, 0, changed.get("at_end", end), changed.get("at_disks", 1)
    )


class TorchZip:
    """A file of torch.save: storages, then bytes() with the tree."""

    def __init__(self, folder="archive", byteorder=b"little"):
        self.folder, self.byteorder, self.storages = folder, byteorder, {}

    def add(self, key, content):
        self.storages[key] = content
        return self

    def tensor(self, shape, content, **more):
        key = str(len(self.storages))
        self.add(key, content)
        return tensor(storage(key, len(content) // 4), shape, **more)

    def records(self, tree, protocol=2):
        result = [Record(f"{self.folder}/data.pkl", pickle(tree, protocol))]
        if self.byteorder is not None:
            result.append(Record(f"{self.folder}/byteorder", self.byteorder))
        result += [Record(f"{self.folder}/data/{key}", content) for key, content in self.storages.items()]
        return result + [Record(f"{self.folder}/version", b"3\n")]

    def bytes(self, tree, protocol=2, **more):
        return archive(self.records(tree, protocol), **more)

    @staticmethod
    def dict_of(items, *tail):
        """A dict of op-codes; the first storage may stand as %s. `tail`: the sixth part that it has in legacy files."""
        return value({key: item.replace(b"%s", storage("0", 2, tail=tail)) for key, item in items.items()})


MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


def legacy(tree, storages, magic=MAGIC, protocol=None, system=None, keys=None, counts=None, tail=b"", width=4):
    """A legacy stream: five pickles, then each storage behind its count of elements. Persistent ids have a sixth part there."""
    out = pickle(magic) + pickle(value(1001) if protocol is None else protocol)
    out += pickle(
        value({"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}})
        if system is None
        else system
    )
    out += pickle(tree) + pickle(value(list(storages)) if keys is None else keys)
    for key, content in storages.items():
        out += struct.pack("<Q", (counts or {}).get(key, len(content) // width)) + content
    return out + tail
