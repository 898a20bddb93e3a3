"""A photo that does not fit into memory is told so, and the others are answered."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

# In a process of its own, whose memory can be limited.
PROGRAM = """
import io, resource, sys, torch
from PIL import Image
from deepfake.checkpoint import Checkpoint
from deepfake.model import DeepfakeDetector
from deepfake.pipeline import Pipeline
from tests.conftest import ASTRONAUT, TINY

torch.set_num_threads(1)
pipeline = Pipeline(Checkpoint(model=DeepfakeDetector(TINY, 64).eval(), crop_margin=0.2),
                    runtime="torch")
good = ASTRONAUT.read_bytes()
pipeline.predict([good])
buffer = io.BytesIO()
Image.new("RGBA", (7000, 7000)).save(buffer, "PNG", compress_level=1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
large, other = pipeline.predict([buffer.getvalue(), good])
print(getattr(large, "code", large), getattr(large, "status", 0), hasattr(other, "label") or
      hasattr(other, "faces"))
"""


def test_too_large_for_the_memory_is_an_answer_and_spares_the_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["out_of_memory", "503", "True"], done.stderr
