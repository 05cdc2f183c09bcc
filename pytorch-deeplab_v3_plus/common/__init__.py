"""What knows no image and no network: errors, arguments, files, logs, devices, processes."""

import os

# A thread of OpenMP that waits for the others keeps its core busy for milliseconds, also where another program needs
# the core. It shall sleep sooner (see docs/performance.md); OpenMP reads this once, when PyTorch is imported.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"
