"""Pickles."""
from zoo import CANARY

SINGER = b"\x80\x02cposix\nsystem\nX" + len("touch " + CANARY).to_bytes(4, "little") + ("touch " + CANARY).encode() + b"\x85R."


def entries():
    return []
