#!/usr/bin/env bash
# torch 2.13.0: a function of torch.compile that is called for the first time while its operations are counted.
# Expected: counted without compiling (or with), and compiled in the next plain call.
# Seen: inside FlopCounterMode, or any other TorchDispatchMode, it runs uncompiled; the frame is marked as one to
# skip, and the plain calls after it run uncompiled too, for as long as the process lives, without a warning. Without
# the counted call before it the first plain call compiles one frame. Exits with 0 as long as that is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

warnings.simplefilter("always")
frames = 0


def count_frames(graph, inputs):
    global frames
    frames += 1
    return graph.forward


def compiled():
    def layer(x):
        return (x @ x).relu()

    return torch.compile(layer, backend=count_frames)


x = torch.ones(4, 4)
compiled()(x)
plain, frames = frames, 0
layer = compiled()
with warnings.catch_warnings(record=True) as told, FlopCounterMode(display=False) as counter:
    layer(x)
counted, frames = frames, 0
for _ in range(3):
    layer(x)
print("frames compiled by a plain call:", plain)
print("by a call under FlopCounterMode:", counted, "of", counter.get_total_flops(), "flops; warnings:", len(told))
print("by three plain calls after it:", frames)
assert plain == 1
assert counted == 0 and counter.get_total_flops() == 128
assert frames == 0, "it is compiled after the counted call now"
PY
