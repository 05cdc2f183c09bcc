"""Write a network as an ONNX file that takes raw RGB images of any size, and check it against PyTorch."""

import inspect
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.faults import lacks_memory
from common.files import replace_file
from dataloaders.sizes import DEFAULT_CROP
from dataloaders.transforms import normalize
from modeling.layers import IMAGENET_MEAN, IMAGENET_STD
from modeling.network import Network

OPSET = 17  # of 2022: old enough for most runtimes
LARGEST_DIFFERENCE = 1e-4  # between the logits of PyTorch and of the file, relative to the largest logit


class RawRGB(nn.Module):
    """A network behind its normalisation: RGB (N, 3, H, W), float32 in 0-255 in, logits (N, K, H, W) out.

    dataloaders.transforms.normalize, which everything else uses, computes in double precision to match the original to
    the last bit, which many runtimes of ONNX files do not have.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.network.whole((image / 255 - self.mean) / self.std)


def export_onnx(path: Path, network: Network, class_names: Sequence[str], short_side: int) -> float:
    """Write a network, in evaluation mode on the CPU, to an ONNX file, and check the file with onnxruntime.

    The file's input `image`, RGB (N, 3, H, W) in 0-255, takes any N, H and W; its metadata holds `class_names` (a JSON
    list) and `short_side`, to which images are to be scaled (0: not at all). A file that fails the check is not kept.

    Returns the largest difference of its logits from PyTorch's on images of two sizes, relative to the largest logit.
    Raises InputError if a package is missing, PyTorch cannot export, or the file's output differs from PyTorch's.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        if lacks_memory(error):  # for the library itself
            raise
        raise InputError(
            f"--export onnx writes and checks with onnx and onnxruntime ({error}): pip install onnx onnxruntime"
        ) from None
    difference, size = 0.0, short_side or DEFAULT_CROP

    def write(temporary: Path) -> None:
        nonlocal difference
        _export(RawRGB(network).eval(), temporary)
        file = onnx.load(temporary)
        onnx.helper.set_model_props(file, {"class_names": json.dumps(list(class_names)), "short_side": str(short_side)})
        onnx.save(file, temporary)
        difference = largest_difference(network, temporary, [(1, size, size), (2, size + 37, max(1, size // 2))])
        if not difference <= LARGEST_DIFFERENCE:
            raise InputError(
                f"{path}: not written: its logits differ from PyTorch's by {difference:.2g} of the largest, expected "
                f"at most {LARGEST_DIFFERENCE:g}; try another version of torch or onnxruntime"
            )

    replace_file(path, write)
    return difference


def _export(model: nn.Module, path: Path) -> None:
    # The exporter by tracing is the same from torch 2.4 on and needs no further package. The newer one (dynamo=True,
    # the default from torch 2.9) requires onnxscript.
    tracing = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    sizes = {0: "images", 2: "height", 3: "width"}
    names = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": {"image": sizes, "logits": sizes}}
    example = torch.zeros(2, 3, 65, 97)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the older exporter, and constants that it does not fold
        try:
            torch.onnx.export(model, (example,), str(path), opset_version=OPSET, **names, **tracing)
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"this network cannot be exported: {str(error).splitlines()[0]}") from None


@torch.inference_mode()
def largest_difference(network: Network, path: Path, sizes: Sequence[tuple[int, int, int]]) -> float:
    """Return how far a file's logits are from the network's, relatively, on noise of `sizes` (N, H, W)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for n, height, width in sizes:
        image = 255 * torch.rand(n, 3, height, width, generator=generator)
        expected = network.whole(normalize(image))
        (found,) = session.run(["logits"], {"image": image.numpy()})
        differences.append(((expected - torch.from_numpy(found)).abs().max() / expected.abs().max()).item())
    return max(differences)
