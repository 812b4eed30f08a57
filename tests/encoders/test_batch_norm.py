"""Synchronised batch norm: two processes equal one process on the concatenated batch."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from orl_ray.encoders.batch_norm import AllReduceBatchNorm, convert_batch_norm

SPLITS = {"even": (4, 4), "uneven": (5, 2), "empty": (6, 0)}
SHAPES = {"vectors": (), "maps": (3, 2)}


def case_tensors(split, shape, step):
    count = sum(SPLITS[split])
    generator = torch.Generator().manual_seed(10 * count + step)
    size = (count, 3, *SHAPES[shape])
    batch = torch.randn(size, generator=generator, dtype=torch.float64) * 2 + 5
    return batch, torch.randn(size, generator=generator, dtype=torch.float64)


def prepared_norm(shape):
    norm = (nn.BatchNorm2d if SHAPES[shape] else nn.BatchNorm1d)(3, dtype=torch.float64)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.5, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    return norm


def run_steps(norm, split, shape, rows, device="cpu"):
    outputs, gradients = [], []
    for step in range(2):  # twice, so that running statistics average
        batch, upstream = case_tensors(split, shape, step)
        local = batch[rows].to(device, copy=True).requires_grad_()
        output = norm(local)
        output.backward(upstream[rows].to(device))
        outputs.append(output.detach())
        gradients.append(local.grad)
    return {
        "outputs": outputs,
        "input_gradients": gradients,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "buffers": {name: buffer.clone() for name, buffer in norm.named_buffers()},
    }


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for split, sizes in SPLITS.items():
        for shape in SHAPES:
            norm = convert_batch_norm(prepared_norm(shape), "cpu")
            rows = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], sum(sizes))
            results[split, shape] = run_steps(norm, split, shape, rows)
    try:
        AllReduceBatchNorm(3)(torch.zeros(1 if rank == 0 else 0, 3))
    except ValueError as error:
        results["single"] = str(error)
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch_norm")
    mp.spawn(worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_two_processes_equal_one_on_the_concatenated_batch(two_processes, split, shape):
    first, second = (results[split, shape] for results in two_processes)
    whole = run_steps(prepared_norm(shape), split, shape, slice(None))
    close = {"rtol": 1e-9, "atol": 1e-9}
    for key in ("outputs", "input_gradients"):
        for step in range(2):
            torch.testing.assert_close(torch.cat([first[key][step], second[key][step]]), whole[key][step], **close)
    for key in ("weight", "bias"):
        torch.testing.assert_close(first[key] + second[key], whole[key], **close)
    for name, buffer in whole["buffers"].items():
        torch.testing.assert_close(first["buffers"][name], buffer, **close)
        assert torch.equal(first["buffers"][name], second["buffers"][name])


def test_single_value_a_channel_is_an_error_on_every_process(two_processes):
    assert all("more than one value a channel" in results["single"] for results in two_processes)


def test_without_a_process_group_it_is_torchs_batch_norm():
    reference, ours = prepared_norm("maps"), convert_batch_norm(prepared_norm("maps"), "cpu")
    expected, found = (run_steps(norm, "even", "maps", slice(None)) for norm in (reference, ours))
    assert torch.equal(expected["outputs"][1], found["outputs"][1])
    assert torch.equal(expected["buffers"]["running_var"], found["buffers"]["running_var"])


def test_conversion_takes_over_parameters_buffers_keys_and_mode():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.2)), nn.ReLU())
    network.eval()
    before = copy.deepcopy(network.state_dict())
    weight, running = network[1][0].weight, network[1][0].running_mean
    converted = convert_batch_norm(network, "cpu")
    norm = converted[1][0]
    assert isinstance(norm, AllReduceBatchNorm)
    assert norm.weight is weight
    assert norm.running_mean is running
    assert (norm.eps, norm.momentum, norm.training) == (1e-3, 0.2, False)
    assert list(converted.state_dict()) == list(before)


def test_conversion_for_cuda_takes_torchs_synchronised_batch_norm():
    assert isinstance(convert_batch_norm(nn.BatchNorm1d(3), "cuda"), nn.SyncBatchNorm)


def gpu_worker(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for shape in SHAPES:
        rows = slice(0, SPLITS["uneven"][0]) if rank == 0 else slice(SPLITS["uneven"][0], None)
        for name, device_type in (("torch", "cuda"), ("ours", "cpu")):
            norm = convert_batch_norm(prepared_norm(shape), device_type).to("cuda")
            results[name, shape] = run_steps(norm, "uneven", shape, rows, "cuda")
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, for torch's SyncBatchNorm")
@pytest.mark.parametrize("shape", SHAPES)
def test_ours_equals_torchs_synchronised_batch_norm_in_two_processes_on_one_gpu(tmp_path, shape):
    mp.spawn(gpu_worker, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        results = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True, map_location="cpu")
        torch.testing.assert_close(results["ours", shape], results["torch", shape], rtol=1e-9, atol=1e-9)


def test_input_without_channels_is_an_error():
    with pytest.raises(ValueError, match="1 dimension"):
        AllReduceBatchNorm(3)(torch.zeros(3))
