"""Sliced models out of miq against torch.load and the official json.

    compare_slicegpt.py CONVERT_CHECKPOINT CHECKPOINTS

For every folder of CHECKPOINTS with a NAME_SPARSITY.pt: container, then --to hf; the pair that comes out must hold the
tensors of the one that went in, bit by bit, and state the same schedule; and back to a container it is the same bytes.
The .pt is loaded as the original loader does it, but with weights_only=True. Exit 77 (skipped) where torch or data are missing.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

program, checkpoints = sys.argv[1], Path(sys.argv[2])
pairs = sorted(checkpoints.glob("*/*_0.*.pt")) if checkpoints.is_dir() else []
if not pairs:
    print(f"skipped: no sliced checkpoints in {checkpoints}")
    sys.exit(77)

for pair in pairs:
    with tempfile.TemporaryDirectory() as scratch:
        first, folder, second = Path(scratch, "a.miq"), Path(scratch, "hf"), Path(scratch, "b.miq")
        for source, target, more in ((pair.parent, first, []), (first, folder, ["--to", "hf"]), (folder, second, [])):
            subprocess.run([program, str(source), "-o", str(target), "--quiet", *more], check=True, capture_output=True)
        assert first.read_bytes() == second.read_bytes(), "the container does not come back"
        written = folder / pair.name
        before, after = torch.load(pair, map_location="cpu", weights_only=True), torch.load(written, map_location="cpu", weights_only=True)
        assert list(sorted(before)) == list(sorted(after)), "other names"
        for name, tensor in before.items():
            assert after[name].dtype == tensor.dtype and torch.equal(after[name], tensor), name
        assert json.loads(pair.with_suffix(".json").read_text()) == json.loads(written.with_suffix(".json").read_text()), "another schedule"
        print(f"{pair.parent.name}: {len(before)} tensors and the schedule equal, container byte-identical")
