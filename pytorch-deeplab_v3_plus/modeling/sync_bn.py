"""Batch norm over all processes of a distributed run."""

import torch
from torch import Tensor, nn

from training.distributed import DifferentiableSum, sum_over_processes, world_size


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's own on GPUs; on the CPU, which that does not serve, the same from sums over the processes."""

    def forward(self, x: Tensor) -> Tensor:  # (N, C, ...)
        if x.is_cuda or not self.training or world_size() == 1:
            return super().forward(x)
        dtype, x = x.dtype, x.to(self.weight.dtype)  # statistics are not taken in half precision
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = sum_over_processes(x.new_tensor(x.numel() / x.shape[1]))
        mean = DifferentiableSum.apply(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = DifferentiableSum.apply(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(dtype)
