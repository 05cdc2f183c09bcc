"""Check the environment: versions, devices, the filter's build, filter and loss against reference numbers, data, disk.

    python check_environment.py [--json]

Prints one line per check and exits with status 1 if one fails. `note` marks what is worth knowing but no failure.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from common.arguments import ArgumentParser
from common.errors import InputError, exit_status

CODE = Path(__file__).resolve().parent
REQUIREMENTS = CODE.parent / "requirements.txt"
BUILD_TOOLS = ("swig", "setuptools")  # not needed once the filter is built
GIB = 2**30


class Note(Exception):
    """Something worth knowing that is no failure."""


def python() -> str:
    """The interpreter."""
    return f"{platform.python_version()}, {sys.executable}"


def packages() -> str:
    """The packages that runs need, against requirements.txt."""
    from packaging.requirements import Requirement  # comes with matplotlib and tensorboardX

    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    found = []
    for requirement in (Requirement(line) for line in lines if line):
        if requirement.name in BUILD_TOOLS:
            continue
        importlib.import_module({"pillow": "PIL"}.get(requirement.name, requirement.name))
        version = importlib.metadata.version(requirement.name)
        if not requirement.specifier.contains(version, prereleases=True):
            raise RuntimeError(f"{requirement.name} {version}, expected {requirement.specifier}")
        found.append(f"{requirement.name} {version}")
    return ", ".join(found)


def processor() -> str:
    """Processors, threads and memory."""
    import torch

    from common.parallel import usable_cpus

    threads = torch.get_num_threads()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    return f"{platform.machine()}, {usable_cpus()} usable, PyTorch threads: {threads}, memory {memory:.0f} GiB"


def graphics() -> str:
    """The GPUs that PyTorch can use."""
    import torch

    if not torch.cuda.is_available():
        reason = "no NVIDIA driver"
        if shutil.which("nvidia-smi"):
            reason = "PyTorch cannot use the driver" if torch.version.cuda else "this PyTorch is without CUDA"
        raise Note(f"none ({reason}): everything runs on the CPU")
    found = [f"CUDA {torch.version.cuda}"]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(f"{gpu.name} (sm_{gpu.major}{gpu.minor}, {free / GIB:.0f} of {total / GIB:.0f} GiB free)")
    return ", ".join(found)


def filter_build() -> str:
    """How the C++ filter was built."""
    import _bilateralfilter
    import bilateralfilter

    from common.parallel import usable_cpus

    rebuild = "build it again: pip install ./wrapper/bilateralfilter"
    if not hasattr(bilateralfilter, "mean_field"):
        raise Note(f"older than this code, or another package of that name; {rebuild}")
    sets = bilateralfilter.instruction_sets()
    binary = Path(_bilateralfilter.__file__)
    text = f"{sets[0]} (of {', '.join(sets)}), {binary.parent}"
    if not any(symbol in binary.read_bytes() for symbol in (b"GOMP_parallel", b"__kmpc_fork_call")):
        raise Note(f"no OpenMP, one thread, {text}; where the compiler has it, {rebuild}")
    threads = os.environ.get("OMP_NUM_THREADS") or usable_cpus()
    return f"OpenMP, threads: {threads}, {text}"


# Every 40th value of the filtered `reference_case`, printed by the C++ filter, which reproduces the original's outputs
# in tests/reference bit for bit; and the loss, the negative inner product of probabilities and filtered probabilities.
# They stand here because a machine may have this folder alone.
FILTERED = (
    *(0.7162216, 2.3082848, 2.0578268, 2.3032181, 3.8597775, 2.2042150, 2.7231229, 4.6060839, 4.7103209, 2.0081165),
    *(0.6067616, 1.5422491, 1.8272622, 3.3916624, 2.7621748, 2.1036975, 3.9172609, 1.9191251, 3.8494239, 2.2494802),
    *(2.5605416, 2.0306017),
)
LOSS = -1225.8331542
SIGMA_RGB, SIGMA_XY = 15.0, 6.0


def reference_case():
    """Return an image (1, 3, 18, 24) in 0..255 and probabilities (1, 2, 18, 24), from formulas."""
    import torch

    y, x = torch.meshgrid(torch.arange(18), torch.arange(24), indexing="ij")
    image = torch.stack([(37 * x * y + 11 * x) % 61 + 150 * (x > y), 7 * x + 3 * y, (29 * x + 53 * y) % 47])
    first = ((5 * x + 3 * y) % 17) / 16
    return image[None].float(), torch.stack([first, 1 - first])[None]


def filter_numbers() -> str:
    """The C++ filter against reference numbers."""
    from filtering import bilateral_filter

    found = bilateral_filter(*reference_case(), SIGMA_RGB, SIGMA_XY).flatten()[::40]
    return agreement(found, found.new_tensor(FILTERED), 1e-5)


def loss_numbers() -> str:
    """The DenseCRF loss and its gradient, which is -2 times the filtered probabilities, against reference numbers."""
    from DenseCRFLoss import DenseCRFLoss

    image, probabilities = reference_case()
    loss = DenseCRFLoss(1.0, SIGMA_RGB, SIGMA_XY, 1.0)(image, probabilities.requires_grad_(), image.new_ones(1, 18, 24))
    loss.backward()
    found = image.new_tensor([loss.item(), *probabilities.grad.flatten()[::40].tolist()])
    return agreement(found, found.new_tensor([LOSS, *(-2 * value for value in FILTERED)]), 1e-5)


def gpu_numbers() -> str:
    """Filter and network on each GPU against the CPU."""
    import torch

    if not torch.cuda.is_available():
        raise Note("no GPU to compare with the CPU")
    return "; ".join(f"cuda:{n}: {against_cpu(torch.device('cuda', n))}" for n in range(torch.cuda.device_count()))


def against_cpu(device) -> str:
    """Compare filter and network on a device with the CPU."""
    import torch

    from filtering import bilateral_filter
    from modeling.deeplab import DeepLab

    image, probabilities = reference_case()
    found = bilateral_filter(image.to(device), probabilities.to(device), SIGMA_RGB, SIGMA_XY).cpu()
    on_filter = agreement(found, bilateral_filter(image, probabilities, SIGMA_RGB, SIGMA_XY), 1e-4)
    model = DeepLab(21, "mobilenet", 16, pretrained="none").eval()
    images = torch.rand(2, 3, 65, 65)
    with torch.inference_mode():
        expected = model(images)
        # TF32, which GPUs use for convolutions, keeps three digits.
        return f"filter {on_filter}, network {agreement(model.to(device)(images.to(device)).cpu(), expected, 2e-2)}"


def agreement(found, expected, bound: float) -> str:
    """Return how far `found` is from `expected` as text; raise RuntimeError if it is `bound` or more."""
    error = ((found - expected).norm() / expected.norm()).item()
    if not error < bound:
        raise RuntimeError(f"relative error {error:.1e}, expected below {bound:g}")
    return f"agrees, relative error {error:.0e} (below {bound:g})"


def data_set(name: str) -> str:
    """Whether a data set is found, and whether every listed file is there."""
    from dataloaders.catalogue import find_data_set
    from dataloaders.datasets.pascal import VOCSegmentation
    from dataloaders.options import DataOptions
    from mypath import Path as DataPath

    folder = Path(DataPath.db_root_dir(name))
    if not folder.is_dir():
        how = {"pascal": "data/VOC2012/fetchVOC2012.sh fetches it", "synthetic": "drawn when it is first used"}
        raise Note(f"not in {folder}: {how.get(name, 'see mypath.py')}")
    # Not the data set's own class, because that of the synthetic one draws what is missing.
    classes = find_data_set(name).CLASSES
    train, val = (len(VOCSegmentation(DataOptions(), folder, split, classes)) for split in ("train", "val"))
    return f"{train:,} training and {val:,} validation images, all files there, {folder}"


def disk() -> str:
    """Free space for results."""
    free = shutil.disk_usage(CODE).free / GIB
    if free < 1:
        raise RuntimeError(f"{free:.1f} GiB free at {CODE}, expected 1 GiB or more for checkpoints")
    return f"{free:.0f} GiB free at {CODE}"


def shared_memory() -> str:
    """Shared memory, through which worker processes hand over the images that they load."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        raise Note("no /dev/shm: use --workers 0 if loading fails")
    free = shutil.disk_usage(folder).free / GIB
    if free < 1:  # Docker gives 64 MiB
        raise Note(f"{free:.2f} GiB free in {folder}: use --workers 0, or start Docker with --ipc=host")
    return f"{free:.0f} GiB free in {folder}"


def checks() -> dict[str, Callable[[], str]]:
    """Return the checks by the name of their line."""
    found = {"Python": python, "packages": packages, "processor": processor, "GPU": graphics}
    found |= {"filter's build": filter_build, "filter": filter_numbers, "DenseCRF loss": loss_numbers}
    found |= {"GPU and CPU": gpu_numbers}
    with contextlib.suppress(ImportError):  # the line of the packages says which one is missing
        from dataloaders.catalogue import data_set_names

        found |= {f"data: {name}": functools.partial(data_set, name) for name in data_set_names()}
    return found | {"disk": disk, "shared memory": shared_memory}


def run(check: Callable[[], str]) -> tuple[str, str]:
    """Run a check; return `ok`, `note` or `FAILED`, and one line of text."""
    try:
        return "ok", check()
    except Note as note:
        return "note", str(note)
    except Exception as error:  # anything, because reporting what a broken installation raises is this script's job
        kind = "" if isinstance(error, (RuntimeError, InputError)) else f"{type(error).__name__}: "
        return "FAILED", f"{kind}{error}".split("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run every check; return 1 if one failed."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    as_json = parser.parse_args(argv).json
    width = max(40, min(shutil.get_terminal_size().columns, 100))
    results = []
    for name, check in checks().items():
        status, text = run(check)
        results.append({"name": name, "status": status, "text": text})
        if not as_json:
            line = textwrap.wrap(text, width - 24, break_long_words=False, break_on_hyphens=False)
            print(f"{name:<16}{status:<8}" + ("\n" + 24 * " ").join(line), flush=True)
    failed = sum(result["status"] == "FAILED" for result in results)
    summary = f"{failed} of {len(results)} checks failed" if failed else "everything works"
    print(json.dumps({"ok": not failed, "checks": results}, indent=1) if as_json else summary)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
