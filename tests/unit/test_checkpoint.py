"""What a checkpoint may hold, and what is said of one that holds something else."""

import math
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from helpers import message, one_line, run_folder, train
from modeling.checkpoint import load_checkpoint, load_network, load_weights
from modeling.deeplab import DeepLab
from modeling.networks import NETWORKS, build_network, network_class
from training.checkpoint import keep_newest, load_training, newest_checkpoint, newest_good, save_last
from training.run_folder import new_run
from training.step import TrainingStep

WEIGHTS = {"conv.weight": torch.ones(2), "bn.num_batches_tracked": torch.tensor(3)}


def saved(path: Path, content) -> Path:
    torch.save(content, path / "network.pth.tar")
    return path / "network.pth.tar"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": WEIGHTS | {"a": torch.tensor([1.0, math.nan])}}, "expected finite weights, found a infinite"),
        ({"state_dict": WEIGHTS | {"a": torch.tensor(math.inf)}}, "expected finite weights, found a infinite"),
        ({"state_dict": {"a": 3}}, "expected weights by name"),
        ({"state_dict": {"a": torch.ones(2).to_sparse()}}, "expected plain weights, found a quantised, sparse or"),
        ({"state_dict": {"a": torch.ones(2, device="meta")}}, "expected plain weights, found a quantised, sparse or"),
        ({"state_dict": {"a": WEIGHTS["conv.weight"], "module.a": torch.zeros(2)}}, "with and without 'module.'"),
        ({"epoch": "7"}, "expected a number of epochs, at least 0 as 'epoch', found '7'"),
        ({"epoch": -1}, "as 'epoch', found -1"),
        ({"epoch": 2.5}, "as 'epoch', found 2.5"),
        ({"best_pred": "high"}, "expected a score of at most 1 as 'best_pred', found 'high'"),
        ({"best_pred": math.nan}, "expected a score of at most 1 as 'best_pred', found nan"),
        ({"best_pred": 69.4}, "expected a score of at most 1 as 'best_pred', found 69.4"),
        ({"history": [1, 2]}, "expected records of epochs as 'history'"),
        ({"optimizer": [1]}, "expected optimizer by name as 'optimizer'"),
        ({"model": ["mobilenet"]}, "and 'model' a dict of settings"),
        ({"model": {"backbone": "vgg"}}, "as 'backbone', found 'vgg'"),
        ({"model": {"backbone": ["resnet"]}}, "as 'backbone', found ['resnet']"),
        ({"model": {"num_classes": "21"}}, "as 'num_classes', found '21'"),
        ({"model": {"num_classes": 1}}, "as 'num_classes', found 1"),
        ({"model": {"output_stride": 7}}, "expected 16 or 8 as 'output_stride', found 7"),
        ({"model": {"class_names": "cat"}}, "expected names of classes as 'class_names', found 'cat'"),
        ({"model": {"class_names": ["a", "b"], "num_classes": 3}}, "expected a name for each of 3 classes, found 2"),
        ({"model": {"crop_size": 0}}, "as 'crop_size', found 0"),
    ],
)
def test_what_does_not_belong_into_a_checkpoint_is_named(tmp_path, content, said):
    path = saved(tmp_path, {"state_dict": WEIGHTS, **content})
    with pytest.raises(InputError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": {f"_orig_mod.{name}": value for name, value in WEIGHTS.items()}},
        {"state_dict": {f"module._orig_mod.{name}": value for name, value in WEIGHTS.items()}},
        {"cur_itrs": 30000, "model_state": WEIGHTS, "optimizer_state": {}, "best_score": 0.7},
    ],
)
def test_weights_are_found_however_they_were_saved(tmp_path, content):
    found = load_checkpoint(saved(tmp_path, content))["state_dict"]
    assert found.keys() == WEIGHTS.keys() and all(torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_bare_weights_of_each_network_are_loaded_into_it(tmp_path, name):
    """Regression: inference.py refused those of the Caffe networks, and advised an option that it does not have."""
    settings = {"network": name, "backbone": "resnet", "output_stride": 16, "num_classes": 3}
    path = saved(tmp_path, build_network(settings).state_dict())
    _, found = load_network(path)
    backbone = "resnet" if network_class(name).has_backbone else None
    assert (found["network"], found["num_classes"], found["backbone"]) == (name, 3, backbone)
    if not backbone:
        assert "its backbone is None, but --backbone says resnet" in message(load_network, path, "resnet")


def test_as_many_names_as_the_classifier_has_classes(tmp_path):
    """Regression: names without `num_classes` led to an IndexError, or were dropped."""
    weights = DeepLab(3, "mobilenet").state_dict()
    for names in (["a", "b"], ["a", "b", "c", "d"]):
        path = saved(tmp_path, {"state_dict": weights, "model": {"backbone": "mobilenet", "class_names": names}})
        assert f"expected a name for each of 3 classes, found {len(names)}" in message(load_network, path)


def test_another_projects_network_is_called_that():
    with pytest.raises(InputError, match=r"\(classifier.aspp.weight ...\) is one of this network's"):
        load_weights(DeepLab(3, "mobilenet"), {"classifier.aspp.weight": torch.zeros(1)}, "best.pth")


@pytest.mark.parametrize("where", ["state_dict", "trained", "optimizer"])
def test_a_checkpoint_that_is_not_finite_is_passed_over(tmp_path, caplog, where):
    for number, value in enumerate((1.0, 2.0, math.nan)):
        one, other = torch.tensor(1.0), torch.tensor(value)
        content = {"state_dict": {"a": one}, "trained": {"b": one}, "optimizer": {"state": {}, "param_groups": []}}
        bad = {"state_dict": {"a": other}, "trained": {"b": other}, "optimizer": {"state": {7: {"m": other}}}}
        content[where] |= bad[where]
        save_last(tmp_path, {"epoch": number, **content})
    previous = tmp_path / "checkpoint_previous.pth.tar"
    assert newest_checkpoint(tmp_path) == previous == newest_good(tmp_path)
    what = {"state_dict": "a", "trained": "b of 'trained'", "optimizer": "m of parameter 7"}[where]
    assert f"found {what} infinite or not a number" in caplog.text


@pytest.mark.parametrize("odd", [torch.ones(2).to_sparse(), torch.ones(2, device="meta")])
def test_odd_tensors_to_train_on_from_are_one_line(tmp_path, odd):
    """Regression: a traceback."""
    for part in ({"trained": {"b": odd}}, {"optimizer": {"state": {7: {"m": odd}}, "param_groups": []}}):
        assert "found" in message(load_training, saved(tmp_path, {"state_dict": {"a": torch.ones(1)}, **part}))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (lambda old: old.to(torch.int8), "expected floating-point weights, found .* in torch.int8"),
        (lambda old: old[:1], "expected a classifier of 2 or more classes, found one of 1 in it"),
        (lambda old: old.sum(), "expected a classifier of 2 or more classes, found one of 0 in it"),
    ],
)
def test_a_network_that_would_give_background_everywhere_is_refused(tmp_path, weights, said):
    """Regression: whole numbers were loaded as weights, and one output was a network of one class."""
    classifier = "decoder.last_conv.8.weight"
    state = DeepLab(3, "mobilenet").state_dict()
    path = saved(tmp_path, state | {classifier: weights(state[classifier])})
    with pytest.raises(InputError, match=said):
        load_network(path, "mobilenet")


def test_a_damaged_file_in_the_format_of_the_authors_is_one_line(tmp_path):
    """Regression: IndexError, AssertionError, TypeError and AttributeError, with tracebacks."""
    content = {"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"param_groups": [{"lr": 0.1}]}}
    path, refused = tmp_path / "old.pth.tar", 0
    torch.save(content, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + b"\x85" + whole[at + 1 :])
        try:
            load_checkpoint(path)
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    assert refused > len(whole) / 6


@pytest.mark.parametrize("content", [b"", b"hello\n", bytes(1000), "folder", "link"])
def test_what_is_no_checkpoint_is_said_plainly(tmp_path, content):
    """Regression: PyTorch's words followed, such as the advice to run the code in a file."""
    path = tmp_path / "model.pth.tar"
    if content == "folder":
        path.mkdir()
        said = "expected a checkpoint, found a folder; name a file in it"
    elif content == "link":
        path.symlink_to(tmp_path / "nothing")
        said = f"it is a link to {tmp_path / 'nothing'}, where nothing is (fetch that file)"
    else:
        path.write_bytes(content)
        said = f"not an intact PyTorch checkpoint ({len(content):,} bytes); was it cut off or damaged in copying?"
    assert message(load_checkpoint, path) == f"{path}: {said}"


def test_weights_that_are_not_finite_are_not_saved(voc, monkeypatch, capsys):
    """Regression: a last step that ruined them ended with status 0, `background 100 %` and a checkpoint of them."""
    gradients, steps = TrainingStep.gradients, []

    def ruined(self, batch):
        losses = gradients(self, batch)
        steps.append(1)
        if len(steps) == 4:
            next(self.network.parameters()).grad.fill_(math.nan)
        return losses

    monkeypatch.setattr(TrainingStep, "gradients", ruined)
    assert train(voc, "--epochs", 2, "--no-val") == 2
    line, good = one_line(capsys), run_folder(voc) / "checkpoint_last.pth.tar"
    assert "is infinite or not a number after 4 steps; lower --lr" in line
    assert line.endswith(f"last good checkpoint: {good}") and load_checkpoint(good)["epoch"] == 1


def test_somebodys_own_files_in_a_run_folder_are_left_alone(tmp_path):
    """Regression: their names were parsed, with a traceback."""
    own = [tmp_path / f"checkpoint_epoch_{name}.pth.tar" for name in ("best", "2_backup", "")]
    for path in own:
        path.touch()
    for number in (1, 2):
        (tmp_path / f"checkpoint_epoch_{number}.pth.tar").touch()
    keep_newest(tmp_path, 1)
    assert all(path.exists() for path in own)
    assert [path.name for path in tmp_path.glob("checkpoint_epoch_[12].pth.tar")] == ["checkpoint_epoch_2.pth.tar"]
    (tmp_path / "experiment_3").touch()
    (tmp_path / "experiment_best").mkdir()
    assert new_run(tmp_path).name == "experiment_4"
