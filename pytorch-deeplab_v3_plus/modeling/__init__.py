"""The segmentation network: DeepLabv3+ on one of four backbones."""
