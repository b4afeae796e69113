"""The loading side, a process of its own: ``python -m real.loading_side BASE REF TEXTS ANSWERS``.

It knows where the registry is (from the environment, as any user of promptreg does), where a base model lies and
what the prompt is called; template and label words come with the prompt. For the texts in the JSON file TEXTS it
writes logits [N, V] and the chosen labels to ANSWERS, and prints what ``attach`` reported.
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
    from real.scoring import choose, score

    with promptreg.Registry.open() as registry:
        pulled = registry.pull(reference)
    prompt = pulled.prompt
    assert prompt.template is not None
    inputs = [prompt.template.replace("{text}", text) for text in json.loads(Path(texts).read_text())]
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with promptreg.attach(model, pulled) as prompted:
        logits = score(prompted, tokenizer, inputs)
        print(json.dumps({"report": str(prompted.report), "labels": choose(logits, tokenizer, prompt.labels)}))
    save_file({"logits": logits}, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
