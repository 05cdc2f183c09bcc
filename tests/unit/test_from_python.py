"""What the parts do for programs of one's own, beside what the scripts need of them."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import nn

from common import distributed
from dataloaders.transforms import normalize
from DenseCRFLoss import DenseCRFLoss
from evaluation.scores import ConfusionMatrix
from losses.cross_entropy import PartialCrossEntropy
from losses.gated_crf import GatedCRF
from losses.potts import Potts
from losses.tree_energy import TreeEnergy
from modeling.checkpoint import load_network
from modeling.deeplab import DeepLab
from prediction.predict import evaluation_mode, predict, probabilities, segment


@pytest.fixture(scope="module")
def network() -> DeepLab:
    torch.manual_seed(0)
    return DeepLab(3, "mobilenet").eval()


def random_images(n: int = 1, side: int = 33) -> torch.Tensor:
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_a_loaded_network_predicts_at_once(network, tmp_path):
    """Regression: it was in training mode: other results each time, and its statistics drifted."""
    settings = {"network": "deeplabv3plus", "backbone": "mobilenet", "num_classes": 3, "output_stride": 16}
    torch.save({"state_dict": network.state_dict(), "model": settings, "epoch": 1}, tmp_path / "model.pth.tar")
    loaded, _ = load_network(tmp_path / "model.pth.tar")
    assert torch.equal(next(predict(loaded, random_images())), next(predict(network, random_images())))


def test_predictions_are_fit_for_a_loss(network):
    """Regression: they were inference tensors, which autograd refuses."""
    teacher = probabilities(predict(network, random_images()), (33, 33))
    student = torch.randn(teacher.shape, requires_grad=True)
    F.mse_loss(student.softmax(1), teacher).backward()
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_another_precision(network, dtype):
    """Regression: an error about dtypes."""
    other = DeepLab(3, "mobilenet").eval()
    other.load_state_dict(network.state_dict())
    (logits,), (expected,) = predict(other.to(dtype), random_images()), predict(network, random_images())
    assert logits.dtype == dtype and torch.allclose(logits.float(), expected, atol=0.1 * expected.abs().max().item())
    assert segment(other, Image.fromarray(np.zeros((33, 40, 3), np.uint8)), 33).shape == (33, 40)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: normalize(images), r"RGB in 0\.\.255 \(not normalised\), found values in -"),
        (lambda images: images[0], r"images: expected shape \(N, 3, h, w\), found \(3, 33, 33\)"),
    ],
)
def test_images_that_are_no_rgb_are_refused(network, change, said):
    """Regression: normalised images were normalised again, in silence."""
    with pytest.raises(ValueError, match=said):
        next(predict(network, change(random_images())))


def test_images_in_0_to_1_are_warned_of(network):
    with pytest.warns(UserWarning, match=r"is this a 0\.\.1 image"):
        next(predict(network, random_images() / 256))


@pytest.mark.parametrize(
    ("image", "found"),
    [(Image.new("L", (40, 33)), "L"), (Image.new("RGBA", (40, 33)), "RGBA"), (np.zeros(9), "ndarray")],
)
def test_pictures_of_another_mode_are_refused(network, image, found):
    """Regression: an error about values to unpack."""
    with pytest.raises(ValueError, match=f"image: expected a PIL image of mode RGB, found {found}"):
        segment(network, image, 33)


def test_what_was_frozen_stays_so():
    """Regression: after an evaluation the batch norms of a part that was in evaluation mode learned again."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout()).train()
    model[0].eval()
    with evaluation_mode(model):
        assert not model.training and not model[1].training
    assert model.training and not model[0].training and model[1].training


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_predictions_that_are_no_class_are_refused(wrong):
    """Regression: they were counted under another true class."""
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([255]), torch.tensor([wrong]))  # where nothing is labelled nothing counts
    with pytest.raises(ValueError, match=f"expected predictions of 0 to 2, found {wrong}"):
        matrix.update(torch.tensor([0, 1]), torch.tensor([1, wrong]))


def test_arguments_out_of_range():
    """Regression: another loss than the one asked for was computed, or not a number."""
    with pytest.raises(ValueError, match="kind: expected ce or focal, found 'dice'"):
        PartialCrossEntropy("dice", ignore_index=255)
    with pytest.raises(ValueError, match="reduction: expected batch or mean, found 'sum'"):
        PartialCrossEntropy(ignore_index=255, reduction="sum")
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be a number of 0 or more"):
            DenseCRFLoss(weight, 15, 100, 0.5)


@pytest.mark.parametrize("loss", [GatedCRF, Potts])
def test_images_of_bytes(loss):
    """Regression: with rloss_scale an error about Byte."""
    soft, everywhere = torch.rand(1, 3, 16, 16).softmax(1), torch.ones(1, 16, 16, dtype=torch.bool)
    image = random_images(side=16)
    found, expected = (loss(1.0, rloss_scale=0.5)(one, soft, everywhere) for one in (image, image.float()))
    assert torch.equal(found, expected)


def test_the_tree_energy_is_not_differentiated_twice():
    """Regression: the second derivative was wrong."""
    logits, image = torch.randn(1, 2, 8, 8, requires_grad=True), random_images(side=8).float()
    everywhere, labels = torch.ones(1, 8, 8, dtype=torch.bool), torch.full((1, 8, 8), 255)
    loss = TreeEnergy(1.0)(image, logits.softmax(1), everywhere, labels, None)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(loss, logits, create_graph=True)


def test_a_process_group_of_ones_own(tmp_path, monkeypatch):
    """Regression: only the variables of torchrun counted, and scores were those of one process."""
    assert distributed.world_size() == 1
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (2, 1, False)
