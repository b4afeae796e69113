"""Training prompts on Gemma 3 270M beside PEFT: a step of one prompt, a sweep of sixteen, and their memory."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import Row, medians

PROMPTS, TOKENS, BATCH = 16, 20, 8
WORDS = 60  # of an article, some 80 tokens
REPEAT = 3


def run() -> list[Row]:
    """Measure steps of both in one process, and the memory of each in a process of its own."""
    model, tokenizer, examples = _material()
    steps = {
        "one": _ours(model, tokenizer, examples, 1),
        "peft": _peft(model, tokenizer, examples),
    }
    took = medians(steps, repeat=REPEAT)
    many = _ours(model, tokenizer, examples, PROMPTS)
    # Sixteen times as long, so that fewer turns tell as much; PEFT's step beside it once more.
    sweep = medians(
        {"sweep": many, **{f"peft-{turn}": steps["peft"] for turn in range(4)}}, repeat=1
    )
    theirs = statistics.median(sweep[f"peft-{turn}"] for turn in range(4)) * PROMPTS
    memory = {who: _peak(who) for who in ("ours", "recomputing", "peft")}
    gib = 2**30
    print(
        f"peak memory of a process that takes 3 steps of one prompt: ours {memory['ours'] / gib:.2f} GiB "
        f"({memory['recomputing'] / gib:.2f} with --recompute), "
        f"PEFT's {memory['peft'] / gib:.2f} GiB ({memory['ours'] / memory['peft']:.2f} x; wanted <= 1)"
    )
    on_gpu = model.device.type == "cuda"
    return [
        Row(
            what=f"a step of one prompt of {TOKENS} tokens, batch {BATCH}",
            ours=took["one"],
            peer="the same on PEFT",
            theirs=took["peft"],
            wanted=1,
        ),
        Row(
            what=f"a step of {PROMPTS} prompts, batch {BATCH} each",
            ours=sweep["sweep"],
            peer="PEFT, one after another",
            theirs=theirs,
            wanted=3 if on_gpu else 1.5,
            least=True,
        ),
    ]


def _material() -> tuple[Any, Any, Any]:
    """Return Gemma 3 270M, its tokenizer, and articles of BBC news cut to 128 tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from promptreg.digests import Digest
    from promptreg.tuning import Example, Examples
    from real.bbc import read_split
    from real.gemma import base_directory

    base = base_directory()
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    articles = read_split(test=1, seed=0, words=WORDS).train
    items = tuple(
        Example(line=at, text=article.text, answer=article.topic)
        for at, article in enumerate(articles, start=1)
    )
    examples = Examples(path=Path("bbc"), digest=Digest.of(b"bbc"), labelled=True, items=items)
    return model, tokenizer, examples


def _ours(model: Any, tokenizer: Any, examples: Any, prompts: int) -> Callable[[], object]:
    """Return what takes one step of ``prompts`` prompts, as ``tune`` does."""
    from promptreg.models import attach
    from promptreg.tuning import Recipe
    from promptreg.tuning.batching import Order
    from promptreg.tuning.initialising import embedding_size, initial_embeddings
    from promptreg.tuning.learners import Learner
    from promptreg.tuning.rows import Reading, cut, make_rows
    from promptreg.tuning.training import Training
    from promptreg.tuning.watching import Unwatched

    prompted = attach(model, policy="unchecked", tokenizer=tokenizer)
    reading = Reading(tokenizer=tokenizer, template="{text}\nAnswer:", labels=examples.labels)
    examples, _ = cut(examples, reading, 128)
    rows = make_rows(examples, reading)
    learners = []
    for seed in range(prompts):
        recipe = Recipe(
            num_virtual_tokens=TOKENS, batch_size=BATCH, steps=1000, init="random", seed=seed
        )
        start = initial_embeddings(recipe, prompted.anatomy, tokenizer, labels=(), texts=())
        order = Order([row.width for row in rows], batch_size=BATCH, seed=seed)
        learners.append(
            Learner(
                name=str(seed),
                recipe=recipe,
                rows=rows,
                order=order,
                parameters={"prompt_embeddings": start},
                scale=embedding_size(prompted.anatomy),
            )
        )
    training = Training(
        prompted=prompted, learners=learners, dev=examples, reading=reading, watcher=Unwatched()
    )

    def step() -> None:
        training.step(learners)
        _wait()

    return step


def _one_of_ours(model: Any, tokenizer: Any, examples: Any) -> Callable[[], object]:
    return _ours(model, tokenizer, examples, 1)


def _peft(model: Any, tokenizer: Any, examples: Any) -> Callable[[], object]:
    """Return what takes one step of one prompt with PEFT, in the loop that its documentation shows."""
    import torch
    from peft import PromptTuningConfig, TaskType, get_peft_model

    from promptreg.tuning.batching import Order
    from promptreg.tuning.rows import Reading, cut, make_rows

    reading = Reading(tokenizer=tokenizer, template="{text}\nAnswer:", labels=examples.labels)
    rows = make_rows(cut(examples, reading, 128)[0], reading)
    order = Order([row.width for row in rows], batch_size=BATCH, seed=0)
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=TOKENS)
    peft_model: Any = get_peft_model(model, config)
    peft_model.eval()
    trained = [each for each in peft_model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1)
    steps = iter(range(1_000_000))

    def step() -> None:
        batch = [rows[at] for at in order.batch(next(steps))]
        width = max(row.width for row in batch)
        ids = torch.zeros(BATCH, width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for at, row in enumerate(batch):
            whole = torch.tensor([*row.ids, *row.answer])
            ids[at, : len(whole)], mask[at, : len(whole)] = whole, 1
            labels[at, len(row.ids) : len(whole)] = torch.tensor(row.answer)
        placed = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        loss = peft_model(**{name: each.to(model.device) for name, each in placed.items()}).loss
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _wait()

    return step


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak(who: str) -> int:
    """Return the most bytes that a process held which took three steps: on the GPU, if there is one."""
    command = [sys.executable, "-m", "benchmarks.tuning", who]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def _main(arguments: Sequence[str]) -> None:
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    model, tokenizer, examples = _material()
    if arguments[0] == "recomputing":
        from promptreg.tuning.recomputing import recomputing

        model = recomputing(model)
    step = (_peft if arguments[0] == "peft" else _one_of_ours)(model, tokenizer, examples)
    for _ in range(3):
        step()
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated())
    else:
        # Not getrusage's, which a process inherits from the larger one that started it.
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


if __name__ == "__main__":
    _main(sys.argv[1:])
