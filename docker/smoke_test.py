"""Check at the end of a build that the packages import and that the installed filter gives the reference numbers."""

from importlib.metadata import version
from pathlib import Path

import bilateralfilter
import jupyterlab  # noqa: F401
import numpy as np
import torch
import torchvision  # noqa: F401

REFERENCE = Path(__file__).parent.parent / "tests" / "reference" / "filter_voc_batch2_57x71_k21.npz"


def main() -> None:
    """Filter the reference's values; raise when the result is another."""
    data = np.load(REFERENCE)
    values = data["segmentations_u16"].astype(np.float32) / 65535
    found = np.empty_like(values)
    bilateralfilter.bilateralfilter_batch(
        data["images"].astype(np.float32),
        values,
        found,
        *values.shape,
        float(data["sigma_rgb"]),
        float(data["sigma_xy"]),
    )
    np.testing.assert_allclose(found, data["filtered"], rtol=1e-4)
    print(f"torch {version('torch')} (CUDA {torch.version.cuda}), filter in {bilateralfilter.__file__}: works")


if __name__ == "__main__":
    main()
