"""Check the environment: versions, devices, the built filter, and filter and loss against reference numbers.

    make test-env

Prints one line a check and exits with status 1 when one fails.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
REFERENCE = HOME / "tests" / "reference"


def python() -> str:
    """The interpreter."""
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors"


def packages() -> str:
    """What requirements.txt asks for."""
    names = {
        "torch": "torch",
        "torchvision": "torchvision",
        "numpy": "numpy",
        "PIL": "pillow",
        "tqdm": "tqdm",
        "tensorboardX": "tensorboardX",
        "matplotlib": "matplotlib",
    }
    return ", ".join(f"{name} {importlib.import_module(module).__version__}" for module, name in names.items())


def devices() -> str:
    """GPUs, or none."""
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device: training and inference run on the CPU"
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in found)


def filter_() -> str:
    """The C++ filter against the original's output."""
    import numpy as np
    import torch

    from filtering import bilateral_filter

    data = np.load(REFERENCE / "filter_voc_batch2_57x71_k21.npz")
    values = torch.from_numpy(data["segmentations_u16"].astype(np.float32) / 65535)
    images = torch.from_numpy(data["images"]).float()
    found = bilateral_filter(images, values, float(data["sigma_rgb"]), float(data["sigma_xy"]))
    return agreement(found, torch.from_numpy(data["filtered"]), 1e-5)


def loss() -> str:
    """The DenseCRF loss's gradient against the original's."""
    import numpy as np
    import torch

    from DenseCRFLoss import DenseCRFLoss

    data = np.load(REFERENCE / "loss_scale05_roi.npz")
    layer = DenseCRFLoss(*(float(data[name]) for name in ("weight", "sigma_rgb", "sigma_xy", "scale_factor")))
    values = torch.from_numpy(data["segmentations_u16"].astype(np.float32) / 65535).requires_grad_()
    layer(torch.from_numpy(data["images"]).float(), values, torch.from_numpy(data["rois"]).float()).backward()
    return agreement(values.grad, torch.from_numpy(data["grad"]), 1e-4)


def agreement(found, expected, bound: float) -> str:
    """Say how far `found` is from `expected`, or raise when it is beyond `bound`."""
    error = ((found - expected).norm() / expected.norm()).item()
    if not error < bound:
        raise RuntimeError(f"relative error {error:.1e} against the reference, expected below {bound:g}")
    return f"agrees with the reference, relative error {error:.1e}"


def data_sets() -> str:
    """Where the data sets are."""
    from mypath import Path as DataPath

    folders = {name: Path(DataPath.db_root_dir(name)) for name in ("pascal", "synthetic")}
    return ", ".join(f"{name} {'in' if path.is_dir() else 'not yet in'} {path}" for name, path in folders.items())


def disk() -> str:
    """Free space for results."""
    free = shutil.disk_usage(HOME).free / 2**30
    if free < 1:
        raise RuntimeError(f"{free:.1f} GiB free at {HOME}, expected 1 GiB or more for checkpoints")
    return f"{free:.0f} GiB free at {HOME}"


def main() -> int:
    """Run every check; return 1 when one failed."""
    checks: dict[str, Callable[[], str]] = {
        "python": python,
        "packages": packages,
        "devices": devices,
        "filter": filter_,
        "DenseCRF loss": loss,
        "data sets": data_sets,
        "disk": disk,
    }
    failed = 0
    for name, check in checks.items():
        try:
            mark, text = "ok", check()
        except Exception as error:  # whatever a broken installation raises is what this script is there to report
            mark, text = "FAILED", f"{type(error).__name__}: {error}".split("\n")[0]
            failed += 1
        print(f"{name:<14} {mark:<7} {text}")
    print(f"{failed} of {len(checks)} checks failed" if failed else "everything works")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
