"""What several papers share and no paper is about."""

import os

# Idle threads of PyTorch's OpenMP sleep instead of spinning. On a machine that does anything else at the same time, spinning
# threads made an update of two threads ten times slower (`benchmarks/README.md`). It must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
