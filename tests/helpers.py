"""What the tests share: a small data set, the scripts called as their users call them, and what they print."""

import json
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train_withdensecrfloss
from common.errors import InputError, exit_status
from dataloaders.labels import voc_palette
from dataloaders.options import DataOptions

WIDTH, HEIGHT = 30, 20


def write_label(path: Path, values: np.ndarray) -> None:
    label = Image.fromarray(values.astype(np.uint8))
    label.putpalette(voc_palette().ravel().tolist())
    label.save(path)


CODE = Path(__file__).parent.parent / "pytorch-deeplab_v3_plus"

SMALL = ["--backbone", "mobilenet", "--pretrained", "none", "--crop-size", "32", "--base-size", "32", "--no-cuda"]
SMALL += ["--workers", "0", "--batch-size", "2"]


def finish_round(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    """Leave in the folder of a round of the annotation page what its training would, with these masks; return it."""
    from page import rounds

    for image_id, mask in masks.items():
        write_label(folder / rounds.PREDICTIONS / f"{image_id}.png", mask)
        with open(folder / rounds.PREDICTED, "a") as lines:
            line = {"id": image_id, "uncertainty": 0.5, "place": [3, 3], "classes": np.unique(mask).tolist()}
            lines.write(json.dumps(line | {"seconds": 0.1}) + "\n")
    (folder / rounds.MODEL).write_text(f"the network of round {folder.name}")
    rounds.add_to_record(folder, phase="finished", seconds=1.0, stopped=False)
    return folder


def data(voc: Path) -> list[str]:
    return ["--data-root", str(voc), "--classes", str(voc.parent / "classes.txt")]


def call(script, *words) -> int:
    """Run a script's main in this process, as its `__main__` block does."""
    return exit_status(lambda: script.main([str(word) for word in words]))


def train(voc: Path, *words) -> int:
    return call(train_withdensecrfloss, *SMALL, *data(voc), "--run-root", voc.parent / "run", *words)


def run_folder(voc: Path, checkname: str = "deeplab-mobilenet", number: int = 0) -> Path:
    return voc.parent / "run" / voc.name / checkname / f"experiment_{number}"


def one_line(capsys) -> str:
    """Return what was printed as an error: one line, no traceback."""
    error = [line for line in capsys.readouterr().err.split("\n") if line.strip()]
    assert len(error) == 1 and error[0].startswith("error: "), error
    return error[0]


def state(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


for name in list(os.environ):  # what a user's shell has must not decide
    if (name.startswith("RLOSS_") and name != "RLOSS_CONTAINER") or name in ("DATA_ROOT", "RANK", "WORLD_SIZE"):
        del os.environ[name]

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(CODE), str(Path(__file__).parent)]),
}


def arguments(**changes) -> DataOptions:
    return DataOptions(
        **{"base_size": 24, "crop_size": 24, "batch_size": 2, "test_batch_size": 2, "workers": 0, **changes}
    )


def custom(voc: Path, **changes) -> DataOptions:
    return arguments(data_root=str(voc), classes=str(voc.parent / "classes.txt"), **changes)


def message(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_grey_png(path: Path, values: np.ndarray, bits: int) -> None:
    """Write a grey PNG of 1, 2 or 4 bits, which Pillow reads but does not write; values are uint8 (H, W)."""
    samples = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(len(values), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


class OnlyOnCuda(TorchDispatchMode):
    """Answers the host's reads of device values with `answers`, and refuses whatever else leaves the device."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            return self.answers.pop(0)
        result = function(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {"cuda"}, function
        return result


# Earlier versions end the process where a pretended tensor of a GPU is interpolated.
pretends_a_gpu = pytest.mark.skipif(torch.__version__ < "2.6", reason="PyTorch before 2.6 cannot pretend")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def cuda_synchronisations(action) -> int:
    """How often the host waits for the GPU in `action`, after a first call that may load things."""
    action()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            action()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
