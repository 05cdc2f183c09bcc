"""Write a network as an ONNX file that takes raw RGB images of any size, and check it against torch."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from common.errors import InputError
from common.files import replace_file
from prediction.predict import RawRGB

logger = logging.getLogger(__name__)

OPSET = 17  # of 2022: old enough for most runtimes
LARGEST_DIFFERENCE = 1e-4  # between the logits of torch and of the file, relative to the largest logit


def export_onnx(path: Path, model: RawRGB, class_names: Sequence[str], size: int) -> float:
    """Write `model`, in evaluation mode on the CPU, to an ONNX file, and run the file with onnxruntime.

    The file's input `image` (N, 3, H, W) takes any N, H and W; its metadata holds `class_names` (a JSON list) and
    `short_side`, the size that the network was trained at. Nothing is left behind when the check fails.

    Returns:
        The largest difference of the logits from torch's on images of two sizes, relative to the largest logit.

    Raises:
        InputError: a package is missing, torch cannot export, or the file's output differs from torch's.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--export onnx writes and checks with onnx and onnxruntime ({error}): pip install onnx onnxruntime"
        ) from None
    difference = 0.0

    def write(temporary: Path) -> None:
        nonlocal difference
        _export(model, temporary)
        file = onnx.load(temporary)
        metadata = {"class_names": json.dumps(list(class_names)), "short_side": str(size)}
        onnx.helper.set_model_props(file, metadata)
        onnx.save(file, temporary)
        difference = largest_difference(model, temporary, [(1, size, size), (2, size + 37, max(1, size // 2))])
        if not difference <= LARGEST_DIFFERENCE:
            raise InputError(
                f"{path}: not written: its logits differ from torch's by {difference:.2g} of the largest, expected at "
                f"most {LARGEST_DIFFERENCE:g}; is there another version of torch or onnxruntime?"
            )

    replace_file(path, write)
    return difference


def _export(model: nn.Module, path: Path) -> None:
    # The exporter by tracing: the same from torch 2.4 on, and it needs no further package. The newer one
    # (dynamo=True, the default from torch 2.9) wants onnxscript.
    tracing = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    sizes = {0: "images", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older one, and which constants it does not fold
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, 65, 97),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": sizes, "logits": sizes},
            opset_version=OPSET,
            **tracing,
        )


@torch.inference_mode()
def largest_difference(model: nn.Module, path: Path, sizes: Sequence[tuple[int, int, int]]) -> float:
    """Return by how much a file's logits differ from the model's on noise of `sizes` (N, H, W), as export_onnx does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for n, height, width in sizes:
        image = 255 * torch.rand(n, 3, height, width, generator=generator)
        expected = model(image)
        (found,) = session.run(["logits"], {"image": image.numpy()})
        differences.append(((expected - torch.from_numpy(found)).abs().max() / expected.abs().max()).item())
    return max(differences)
