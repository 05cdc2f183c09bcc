"""The authors' settings for the networks of the paper's table, as differences from the defaults of the options.

A network's name is its first stage, partial cross-entropy; with `-crf` the second, which starts from the first one's
weights. Full supervision has no settings of its own: the first stage's with the full truth.
"""

from typing import Any

MOBILENET = dict(backbone="mobilenet", lr=0.007, epochs=60, batch_size=12, eval_interval=2)
# Of the networks in Caffe: images at their own size, mirrored and cropped, without blur, padded with the mean colour.
CAFFE = dict(crop_size=321, base_size=None, scale_range=(1.0, 1.0), blur=False, padding="mean", ce_reduction="mean")
CRF = dict(densecrfloss=1e-8, rloss_scale=1.0, sigma_xy=100.0, sigma_rgb=15.0)

LARGEFOV = dict(CAFFE, network="largefov", batch_size=20, lr=1e-3, steps=9000, lr_scheduler="step", lr_step=3000)
MSC = dict(CAFFE, network="msc_largefov", batch_size=30, lr=1e-3, lr_scheduler="step")
VGG16 = dict(CAFFE, network="vgg16", batch_size=10, lr=1e-3, steps=20000, lr_scheduler="poly")
RESNET101 = dict(CAFFE, network="resnet101_v2", batch_size=10, accumulate=10, lr=2.5e-4, steps=20000)
RESNET101 |= dict(scales=(0.5, 0.75, 1.0, 1.25, 1.5), lr_scheduler="poly")

RECIPES: dict[str, dict[str, Any]] = {
    "mobilenet": MOBILENET,
    "mobilenet-crf": dict(MOBILENET, densecrfloss=2e-9, rloss_scale=0.5, sigma_xy=100.0, sigma_rgb=15.0),
    "largefov": LARGEFOV,
    "largefov-crf": LARGEFOV | CRF | dict(lr=1e-4),
    "msc_largefov": dict(MSC, steps=6000, lr_step=2000),
    "msc_largefov-crf": MSC | CRF | dict(steps=9000, lr_step=3000),
    "vgg16": VGG16,
    "vgg16-crf": VGG16 | CRF | dict(lr=5e-4, steps=10000),
    "resnet101_v2": RESNET101,
    "resnet101_v2-crf": RESNET101 | CRF | dict(lr=1.5e-4, steps=10000, sigma_xy=80.0, sigma_rgb=13.0),
}
