"""Reading the weights in a .caffemodel file without Caffe.

Such a file is a message `NetParameter` of Caffe's caffe.proto in the wire format of protocol buffers: a sequence of
fields, each a key (its number and one of four kinds) and a value. What is read here are these fields:

    NetParameter        layers = 2 (V1LayerParameter, files of before 2015), layer = 100 (LayerParameter)
    V1LayerParameter    name = 4, blobs = 6
    LayerParameter      name = 1, type = 2, blobs = 7
    BlobProto           shape = 7 (BlobShape: dim = 1), data = 5 (float), double_data = 8; in old files the shape is
                        num = 1, channels = 2, height = 3, width = 4
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError

SUFFIX = ".caffemodel"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # the kinds of values
SCALES = ("_res075", "_res05")  # ends of the names of layers that share the weights of those without


def read_caffemodel(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the weights of a .caffemodel file as `<layer>.weight` and `<layer>.bias`, float32.

    Of a batch norm they are `<layer>.running_mean` and `<layer>.running_var`. Layers of the same network at other
    scales share their weights and are left out. Raises InputError where the file is missing, cut off or no such file.
    """
    path = Path(path)
    try:
        content = memoryview(path.read_bytes())
        layers = [layer for number, value in fields(content) if number in (2, 100) for layer in [_layer(number, value)]]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a .caffemodel file, found one that is damaged, cut off or of another kind ({error})"
        ) from None
    weights: dict[str, Tensor] = {}
    for name, kind, blobs in layers:
        weights |= _named(path, name, kind, blobs)
    if not weights:
        raise InputError(f"{path}: expected a .caffemodel file with weights, found none in it")
    return _without_copies(path, weights)


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each field of a message: an integer, or the bytes; ValueError if cut off."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind not in (FIXED64, BYTES, FIXED32):
            raise ValueError(f"a field of the unknown kind {kind}")
        length = {FIXED64: 8, FIXED32: 4}.get(kind)
        if length is None:
            length, at = _varint(message, at)
        if at + length > len(message):
            raise ValueError("a field ends behind the end of the file")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the integer at a place, seven bits a byte with the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")


def _layer(number: int, message: memoryview) -> tuple[str, str, list[np.ndarray]]:
    """Return name, type (of new files) and blobs of a layer."""
    name_field, type_field, blob_field = (1, 2, 7) if number == 100 else (4, None, 6)
    name = kind = ""
    blobs = []
    for field, value in fields(message):
        if field == name_field:
            name = str(value, "utf-8")
        elif field == type_field:
            kind = str(value, "utf-8")
        elif field == blob_field:
            blobs.append(_blob(value))
    return name, kind, blobs


def _blob(message: memoryview) -> np.ndarray:
    data: list[np.ndarray] = []
    old, shape = [1, 1, 1, 1], None
    for field, value in fields(message):
        if field == 7:
            shape = [side for number, dims in fields(value) if number == 1 for side in _integers(dims)]
        elif field in (5, 8):  # packed, or value by value
            data.append(np.frombuffer(value, "<f4" if field == 5 else "<f8"))
        elif 1 <= field <= 4:
            old[field - 1] = value
    numbers = np.concatenate(data) if data else np.zeros(0)
    return numbers.astype(np.float32).reshape(old if shape is None else shape)


def _integers(value: int | memoryview) -> Iterator[int]:
    """Yield the integers of a repeated field, which come one by one or packed."""
    at = 0
    while isinstance(value, memoryview) and at < len(value):
        number, at = _varint(value, at)
        yield number
    if isinstance(value, int):
        yield value


def _named(path: Path, name: str, kind: str, blobs: list[np.ndarray]) -> dict[str, Tensor]:
    if not blobs:
        return {}
    tensors = [torch.from_numpy(blob) for blob in blobs]
    if kind == "BatchNorm" and len(tensors) == 3:
        mean, variance, count = (tensor.flatten() for tensor in tensors)
        factor = 1 / count if count.item() else count  # the sums of Caffe's moving averages, and their weight
        return {f"{name}.running_mean": mean * factor, f"{name}.running_var": variance * factor}
    if len(tensors) > 2:
        raise InputError(f"{path}: expected a weight and a bias in the layer {name}, found {len(tensors)} blobs")
    # Old files keep four sides for every blob.
    ours = {f"{name}.weight": tensors[0].flatten() if kind == "Scale" else tensors[0]}
    return ours | ({f"{name}.bias": tensors[1].flatten()} if len(tensors) == 2 else {})


def _without_copies(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {}
    for name, value in weights.items():
        layer, _, kind = name.rpartition(".")
        shared = next((layer.removesuffix(end) for end in SCALES if layer.endswith(end)), None)
        if shared is None:
            ours[name] = value
        elif not torch.equal(value, weights.get(f"{shared}.{kind}", value.new_empty(0))):
            raise InputError(f"{path}: expected in the layer {layer} the weights of {shared}, found others")
    return ours
