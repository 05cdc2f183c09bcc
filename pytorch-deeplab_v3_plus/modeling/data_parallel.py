"""A network in several processes, each of which has its share of a batch."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.distributed import DifferentiableSum, sum_over_processes, world_size


def data_parallel(network: nn.Module, device: torch.device) -> nn.Module:
    """Return `network` such that backward leaves in every process the mean of all processes' gradients.

    Where batch norms are not synchronised, every forward pass of training begins with the running statistics of rank 0.
    """
    if world_size() == 1:
        return network
    if device.type == "cuda":
        return DistributedDataParallel(network, device_ids=[device])
    for module in network.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = SyncBatchNormOnCPU
    return DistributedDataParallel(network)


def share_statistics(network: nn.Module) -> None:
    """Have every process take over the running statistics of rank 0, which are those that checkpoints hold."""
    if world_size() > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def without_reduction(network: nn.Module) -> contextlib.AbstractContextManager:
    """Leave the gradients of forward and backward passes in the block to each process."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()


class SyncBatchNormOnCPU(nn.BatchNorm2d):
    """What nn.SyncBatchNorm computes, which serves GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.to(self.weight.dtype)  # statistics are not taken in half precision
        count = sum_over_processes(x.new_tensor(x.numel() / x.shape[1]))
        mean = DifferentiableSum.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = DifferentiableSum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(dtype)
