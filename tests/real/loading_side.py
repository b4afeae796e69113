"""The loading side, a process of its own: ``python -m real.loading_side BASE REF TEXTS ANSWERS``.

The environment tells it where the registry is, as it tells every user of promptreg. It knows the directory of a
base model and what the prompt is called; template and label words come with the prompt. For the texts in the
JSON file TEXTS it writes logits [N, V] to ANSWERS, and to stdout the labels chosen and what attach reported.
"""

import json
import sys
from pathlib import Path

__all__ = ["main"]


def main(base: str, reference: str, texts: str, answers: str) -> None:
    """Pull the prompt, attach it to the base model, and answer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import promptreg
    from real.bbc import as_input
    from real.scoring import choose, score

    with promptreg.Registry.open() as registry:
        pulled = registry.pull(reference)
    prompt = pulled.prompt
    inputs = [as_input(text, prompt.template) for text in json.loads(Path(texts).read_text())]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with promptreg.attach(model, pulled) as prompted:
        logits = score(prompted, tokenizer, inputs)
        report = str(prompted.report)
    save_file({"logits": logits}, answers)
    json.dump({"labels": choose(logits, tokenizer, prompt.labels), "report": report}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
