"""Mixed tasks on a GPU: 64 rows, a task each, on Llama shapes of 1B and 7B with random weights."""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import Row, print_rows

ROWS, TEXT, VIRTUAL, NEW = 64, 32, 100, 64
# hidden_size, intermediate_size, layers, heads
SHAPES = {
    "tiny": (64, 128, 2, 4),
    "1B": (2048, 5504, 24, 16),
    "7B": (4096, 11008, 32, 32),
}


def run(sizes: tuple[str, ...] = ("1B", "7B"), *, peft: bool = True) -> list[Row]:
    """Measure a mixed batch beside the bare model through the same call, and PEFT task after task."""
    import torch

    if not torch.cuda.is_available() and sizes != ("tiny",):
        print("no CUDA device here: try 'python -m benchmarks.gpu_mixed_tasks tiny' for a dry run")
        return []
    return [row for size in sizes for row in _measure(size, peft=peft)]


def _measure(size: str, *, peft: bool) -> list[Row]:
    import torch

    import promptreg
    from benchmarks.tasks import peft_tasks, soft_prompts

    model = _model(size)
    device = model.device
    prompts = soft_prompts(ROWS, VIRTUAL, model.config.hidden_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (ROWS, TEXT), generator=generator).to(device)
    mask = torch.ones_like(ids)
    how = {
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    names = [f"task-{row}" for row in range(ROWS)]
    with torch.no_grad(), promptreg.attach(model, policy="unchecked") as prompted:
        began = time.perf_counter()
        for name, prompt in zip(names, prompts, strict=True):
            prompted.add(prompt, name=name)
        _wait(device)
        warmed = time.perf_counter() - began

        def generate(rows: list[str | None], **more: Any) -> Any:
            return prompted.generate(ids, attention_mask=mask, prompts=rows, **how, **more)

        static = {"cache_implementation": "static"}
        bare = _median(lambda: generate([None] * ROWS), device)
        mixed = _median(lambda: generate([*names]), device)
        bare_compiled = _median(lambda: generate([None] * ROWS, **static), device)
        compiled = _median(lambda: generate([*names], **static), device)
        floor = _floor(model, device)
        print(
            f"{size}: {ROWS} prompts added and warmed in {warmed:.2f} s; the weights, read {NEW} times at the "
            f"device's own speed: {floor:.3f} s"
        )
        _profile(lambda: generate([*names], **static), f"{size}, compiled", device)
        rows = [
            _row(size, "mixed", mixed, "bare, same call", bare, 1.03),
            _row(size, "mixed, compiled", compiled, "bare, compiled", bare_compiled, 1.03),
            _row(size, "mixed, compiled", compiled, "the weights' traffic", floor, 2.7),
        ]
        if peft:
            with peft_tasks(model, prompts) as one_task:
                # Minutes long: once is enough to tell seventyfold.
                took = _once(
                    lambda: [
                        one_task(row, ids[row : row + 1], mask[row : row + 1], how)
                        for row in range(ROWS)
                    ],
                    device,
                )
            rows.append(
                Row(
                    what=f"{size}: mixed",
                    ours=mixed,
                    peer="PEFT, task after task",
                    theirs=took,
                    wanted=70,
                    least=True,
                )
            )
    del model
    gc.collect()
    return rows


def _row(size: str, what: str, ours: float, peer: str, theirs: float, wanted: float) -> Row:
    return Row(what=f"{size}: {what}", ours=ours, peer=peer, theirs=theirs, wanted=wanted)


def _model(size: str) -> Any:
    """Return a model with random weights, made on the device."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, middle, layers, heads = SHAPES[size]
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=hidden,
        intermediate_size=middle,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        dtype=torch.bfloat16,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _once(step: Callable[[], object], device: Any) -> float:
    _wait(device)
    began = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - began


def _median(step: Callable[[], object], device: Any, repeat: int = 5) -> float:
    """Return the median time of ``step`` after three turns that compile and warm up."""
    for _ in range(3):
        step()
    return statistics.median(_once(step, device) for _ in range(repeat))


def _floor(model: Any, device: Any) -> float:
    """Return how long it takes to read all weights once for each new token, as the device copies memory."""
    import torch

    weights = sum(parameter.nbytes for parameter in model.parameters())
    size = 2**30 if device.type == "cuda" else 2**24
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = _median(lambda: target.copy_(source), device, repeat=9)
    seconds: float = weights * NEW * took / (2 * size)
    return seconds


def _profile(step: Callable[[], object], title: str, device: Any) -> None:
    """Print where the time goes: the kernels that take most, and what the device waits."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as seen:
        took = _once(step, device)
    averages = seen.key_averages()
    on_device = device.type == "cuda"
    key = "self_device_time_total" if on_device else "self_cpu_time_total"
    ranked = sorted(averages, key=lambda event: getattr(event, key), reverse=True)
    busy = sum(getattr(event, key) for event in averages) / 1e6
    print(f"{title}: {took:.3f} s under the profiler, {busy:.3f} s of them busy; most in")
    for event in ranked[:8]:
        print(f"  {getattr(event, key) / 1e6:8.3f} s  {event.count:6d} x  {event.key[:90]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", choices=[*SHAPES], default=["1B", "7B"])
    parser.add_argument(
        "--no-peft", action="store_true", help="leave out the minutes that PEFT takes"
    )
    given = parser.parse_args()
    measured = run(tuple(given.sizes), peft=not given.no_peft)
    if measured:
        print_rows(__doc__ or "", measured)
    sys.exit(0)
