"""Mixed tasks on the CPU: 16 rows of Gemma 3 270M, a task each."""

from typing import Any

from benchmarks.measuring import Row, medians

ROWS, TEXT, VIRTUAL, NEW = 16, 32, 20, 8
MANY = 1000


def run() -> list[Row]:
    """Measure a mixed batch beside the bare model and beside PEFT, one task after another."""
    import torch
    from transformers import AutoModelForCausalLM

    import promptreg
    from benchmarks.tasks import peft_tasks, soft_prompts
    from real.gemma import base_directory

    model: Any = AutoModelForCausalLM.from_pretrained(base_directory(), dtype=torch.float32)
    model.eval()
    model.requires_grad_(False)
    prompts = soft_prompts(ROWS, VIRTUAL, model.config.hidden_size)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 200_000, (ROWS, TEXT), generator=generator)
    mask = torch.ones_like(ids)
    how = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    names = [f"task-{row}" for row in range(ROWS)]
    prompted = promptreg.attach(model, policy="unchecked")
    for name, prompt in zip(names, prompts, strict=True):
        prompted.add(prompt, name=name)

    def mixed(rows: list[str | None]) -> Any:
        return prompted.generate(ids, attention_mask=mask, prompts=rows, **how)

    with torch.no_grad(), peft_tasks(model, prompts) as one_task:
        took = medians(
            {
                "mixed": lambda: mixed([*names]),
                "bare": lambda: mixed([None] * ROWS),
                "plain": lambda: model.generate(ids, attention_mask=mask, **how),
            },
            repeat=5,
        )
        # Sixteen times as long as the others, so that fewer turns tell as much.
        peft = medians(
            {
                "peft": lambda: [
                    one_task(row, ids[row : row + 1], mask[row : row + 1], how)
                    for row in range(ROWS)
                ]
            },
            repeat=1,
        )["peft"]
        first = _first_token(
            prompted, soft_prompts(1, 100, model.config.hidden_size)[0], ids[:1, :4]
        )
        many = _many(prompted, soft_prompts(MANY, 100, model.config.hidden_size), ids[:1])
    prompted.detach()
    return [
        Row(
            what=f"{ROWS} tasks in one batch, {NEW} new tokens",
            ours=took["mixed"],
            peer="the bare model, same call",
            theirs=took["bare"],
            wanted=1.1,
        ),
        Row(
            what="the bare model, same call",
            ours=took["bare"],
            peer="transformers' own generate",
            theirs=took["plain"],
            wanted=1.05,
        ),
        Row(
            what=f"{ROWS} tasks in one batch",
            ours=took["mixed"],
            peer="PEFT, task after task",
            theirs=peft,
            wanted=1,
            least=True,
        ),
        *first,
        *many,
    ]


def _first_token(prompted: Any, prompt: Any, ids: Any) -> list[Row]:
    """Measure from ``add`` to the first token, beside one forward pass over the virtual tokens."""
    import torch

    numbers = bytearray(prompt.tensors["prompt_embeddings"].data)
    virtual = torch.frombuffer(numbers, dtype=torch.float32).reshape(
        1, prompt.num_virtual_tokens, -1
    )

    def ours() -> None:
        prompted.add(prompt, name="new")
        prompted.generate(ids, prompts=["new"], max_new_tokens=1, do_sample=False)
        prompted.remove("new")

    def theirs() -> None:
        prompted.model(inputs_embeds=virtual, use_cache=True, logits_to_keep=1)

    took = medians({"ours": ours, "forward": theirs}, repeat=7)
    return [
        Row(
            what="add and first token, text of 4 tokens",
            ours=took["ours"],
            peer="a forward over the 100 virtual tokens",
            theirs=took["forward"],
            wanted=1.2,
        )
    ]


def _many(prompted: Any, prompts: list[Any], ids: Any) -> list[Row]:
    """Measure a switch among 1,000 prompts beside one among 16; print what each takes."""
    names = list(prompted.prompts)
    turns = iter(range(1_000_000))

    def switch(held: list[str]) -> Any:
        return prompted(ids[:, :1], prompts=[held[next(turns) % len(held)]], logits_to_keep=1)

    few = medians({"few": lambda: switch(names)}, repeat=30)["few"]
    for number, prompt in enumerate(prompts):
        prompted.add(prompt, name=f"many-{number}", warm=False)
    held = [f"many-{number}" for number in range(len(prompts))]
    warm = held[:16]
    for name in warm:
        prompted(ids[:, :1], prompts=[name], logits_to_keep=1)
    many = medians({"many": lambda: switch(warm)}, repeat=30)["many"]
    own = prompted.prompts[held[0]]
    table = prompted.prompts.tables.of(own.tokens, kept=lambda _tokens: False)[own.tokens[0]]
    print(
        f"one prompt of 100 tokens takes {own.nbytes:,} bytes, its keys and values {table.nbytes:,} more "
        f"while they are kept; {len(prompted.prompts):,} are held"
    )
    return [
        Row(
            what=f"a switch, {len(prompts):,} prompts of 100 tokens held",
            ours=many,
            peer="16 prompts held",
            theirs=few,
            wanted=1.2,
        )
    ]
