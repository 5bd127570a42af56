"""Local SGD on a CPU: processes of one thread each train on batches of their own and average their weights every
few steps. On a machine shared with other work this was measured 3 to 4 times as fast as one process of
two threads: the threads of a bfloat16 convolution's backward pass wait for each other by spinning. A GPU
is given one process."""
import contextlib
import os

import torch
import torch.distributed as dist

from networks import DEVICE

PROCESSES, MEET_EVERY = 2, 8


def launch(train, work, name, *arguments):
    """Runs train(rank, work, name, *arguments) in every process, with one thread each."""
    if DEVICE.type != "cpu":
        torch.manual_seed(1)
        return train(0, work, name, *arguments)
    with contextlib.suppress(FileNotFoundError):
        os.remove(f"{work}/{name}.meeting")
    return torch.multiprocessing.spawn(_process, (train, work, name, arguments), nprocs=PROCESSES)


def _process(rank, train, work, name, arguments):
    torch.set_num_threads(1)
    torch.manual_seed(1)  # the same initial weights everywhere
    dist.init_process_group("gloo", init_method=f"file://{work}/{name}.meeting", rank=rank, world_size=PROCESSES)
    train(rank, work, name, *arguments)
    dist.destroy_process_group()


def processes():
    return dist.get_world_size() if dist.is_initialized() else 1


@torch.no_grad()
def meet(parameters, spent):
    """Averages the weights of all processes; returns the share of the time spent, the same for all."""
    if not dist.is_initialized():
        return spent
    flat = torch.cat([torch.tensor([spent])] + [p.detach().flatten() for p in parameters])
    dist.all_reduce(flat)
    share, *values = (flat / PROCESSES).split([1] + [p.numel() for p in parameters])
    torch._foreach_copy_([p.detach() for p in parameters], [v.view_as(p) for v, p in zip(values, parameters)])
    return share.item()
