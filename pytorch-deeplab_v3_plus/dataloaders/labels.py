"""What the values of a label map mean: special values, the classes of PASCAL VOC, colours."""

import numpy as np

PADDING = 254  # pixels with which a transform pads an image: outside the region where the losses apply
UNLABELLED = 255  # pixels without a label (not scribbled, or VOC's void border): part of the image, no cross-entropy

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def voc_palette() -> np.ndarray:
    """Return PASCAL VOC's colour map, uint8 (256, 3): the RGB colour of each label value.

    The bits of a label go to red, green and blue in turn, the lowest to the highest bits of the colours, so that
    neighbouring labels differ most (``VOClabelcolormap`` of the VOC development kit).
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            palette[:, channel] |= ((labels >> (3 * level + channel) & 1) << (7 - level)).astype(np.uint8)
    return palette
